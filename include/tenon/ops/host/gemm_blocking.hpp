// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How a matrix multiplication is cut: the register tile, the blocks of k, and which leaf ends where.
#include <algorithm>
#include <bit>
#include <cstdint>

#include <tenon/core/config.hpp>
#include <tenon/core/reduction_order.hpp>

namespace tenon::ops::detail {

/// The part of c that one kernel call keeps in registers: `rows` x (`vectors` * 16). 24 of 32 zmm, 12 of 16 ymm.
/// A last tile of fewer rows uses a kernel of a multiple of `row_step` rows.
struct gemm_tile {
  static constexpr int rows = TENON_SIMD_AVX512() ? 12 : 6;
  static constexpr int vectors = TENON_SIMD_AVX512() ? 2 : 1;
  static constexpr int row_step = rows / 3;
  static constexpr int cols = vectors * lanes;
  static constexpr int size = rows * cols;
};

/// Most values of k in one block: a row panel of a block stays in L1 while column panels stream by.
inline constexpr index_t gemm_block_k = 384;
/// Levels of the tree that fit into one block of k when leaves are one value long.
inline constexpr int gemm_inner_levels = 9;

/// k cut into leaves and blocks. A block is either a subtree of 2^inner_levels whole leaves or a piece of one leaf, so
/// between two blocks a tile of c is held by at most one unfinished chain and one node per outer level.
struct gemm_order {
  index_t k = 0, leaf = 0, leaves = 0;
  index_t block = 0;   ///< values of k in a block, the last of a group may have fewer
  index_t group = 0;   ///< a subtree (one block) or a leaf (`pieces` blocks)
  index_t pieces = 1;  ///< blocks of a group
  index_t blocks = 0;
  int inner_levels = 0;  ///< tree levels that live and die within a block
  int slots = 0;         ///< tiles that must be kept between blocks, per tile of c

  gemm_order(index_t extent, index_t leaf_length) : k(extent) {
    leaf = leaf_length <= 0 || leaf_length > k ? std::max<index_t>(k, 1) : leaf_length;
    leaves = ceil_div(k, leaf);
    if (leaf <= gemm_block_k) {
      while ((leaf << (inner_levels + 1)) <= gemm_block_k && (index_t(1) << inner_levels) < leaves) ++inner_levels;
      block = group = leaf << inner_levels;
    } else {
      group = leaf;
      block = round_up(ceil_div(leaf, ceil_div(leaf, gemm_block_k)), lanes);
      pieces = ceil_div(leaf, block);
    }
    blocks = k / group * pieces + ceil_div(k % group, block);
    if (blocks > 1) slots = first_node_slot() + std::max(0, tree_levels(leaves - 1) - inner_levels);
  }
  /// Of the tiles kept between blocks: 1 when the first holds an unfinished chain.
  int first_node_slot() const { return pieces > 1; }
  index_t begin(index_t b) const { return b / pieces * group + b % pieces * block; }
  index_t end(index_t b) const { return std::min({begin(b) + block, (b / pieces + 1) * group, k}); }
};

/// The levels whose pending nodes are added to leaf `q`, lowest first: as `tree::push`, and for the last leaf as
/// `tree::push` and `tree::finish` in one.
constexpr std::uint64_t gemm_nodes_to_add(std::uint64_t q, bool last) { return last ? q : q & ~(q + 1); }

}  // namespace tenon::ops::detail
