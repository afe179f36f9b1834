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
/// A last tile of fewer rows uses a kernel of 1, 2 or a multiple of `row_step` rows.
struct gemm_tile {
  static constexpr int rows = TENON_SIMD_AVX512() ? 12 : 6;
  static constexpr int vectors = TENON_SIMD_AVX512() ? 2 : 1;
  static constexpr int row_step = rows / 3;
  static constexpr int cols = vectors * lanes;
  static constexpr int size = rows * cols;
  /// Rows of the smallest kernel that does `count` rows.
  static constexpr int kernel_rows(index_t count) { return int(count <= 2 ? count : round_up(count, row_step)); }
};

/// Most values of k in one block, as a rule: a column panel of a block stays in L1 while row panels stream by.
inline constexpr index_t gemm_block_k = 256;

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

  gemm_order(index_t extent, index_t leaf_length, index_t most_block = gemm_block_k) : k(extent) {
    leaf = leaf_length <= 0 || leaf_length > k ? std::max<index_t>(k, 1) : leaf_length;
    leaves = ceil_div(k, leaf);
    if (leaf <= most_block) {
      while ((leaf << (inner_levels + 1)) <= most_block && (index_t(1) << inner_levels) < leaves) ++inner_levels;
      block = group = leaf << inner_levels;
    } else {
      group = leaf;
      block = round_up(ceil_div(leaf, ceil_div(leaf, most_block)), lanes);
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

/// How the work is cut for caches and threads. Changes time, never a bit of the result.
struct gemm_plan {
  static constexpr index_t packed_a_values = index_t(3) << 19;  ///< 6 MiB: in L3
  static constexpr index_t least_range = 44 * gemm_tile::rows;
  static constexpr index_t most_block_n = 8 * gemm_tile::cols;
  static constexpr index_t least_block_n = 3 * gemm_tile::cols;
  static constexpr index_t chunk_panels = 20;  ///< row panels that are in L2 at a time, packed, with their state
  static constexpr double least_parallel_work = 64.0 * 64 * 64;
  static constexpr index_t few_block_k = 16, few_block_n = 2048;

  index_t m, n;
  gemm_order order;
  index_t range_rows;  ///< rows that a thread packs at a time
  index_t ranges;
  index_t super_blocks;  ///< blocks of k that a thread packs at a time
  index_t block_n;       ///< columns of a unit of work
  int threads;
  /// So few rows that b is read once and from where it lies: along its rows, a few of them at a time, or, if k runs
  /// fastest in memory, along all of k.
  bool few;
  int strip_cols;  ///< columns of a tile that is not at the end

  /// @param in_order the kernel counts k as b holds them
  gemm_plan(index_t rows, index_t cols, index_t k, index_t leaf, bool in_order, bool b_along_k, int pool_threads)
      : m(rows), n(cols), order(k, leaf,
                                !reads_in_place(rows, in_order) ? gemm_block_k
                                : b_along_k                     ? k
                                                                : few_block_k) {
    few = reads_in_place(m, in_order);
    strip_cols = few && !b_along_k ? few_vectors(gemm_tile::kernel_rows(m)) * lanes : gemm_tile::cols;
    threads = double(m) * double(n) * double(k) < least_parallel_work ? 1 : pool_threads;
    index_t const parts = row_parts();
    range_rows = round_up(ceil_div(m, parts), gemm_tile::rows);
    super_blocks = order.blocks;
    index_t const padded_k = order.blocks * order.block;
    if (range_rows * padded_k > packed_a_values) {
      index_t const fits = std::max(packed_a_values / padded_k, least_range);
      range_rows = std::min(range_rows, round_up(ceil_div(m, parts * ceil_div(m, parts * fits)), gemm_tile::rows));
      index_t const blocks_that_fit = std::max<index_t>(1, packed_a_values / (range_rows * order.block));
      super_blocks = ceil_div(order.blocks, ceil_div(order.blocks, blocks_that_fit));
    }
    ranges = ceil_div(m, range_rows);
    index_t const share = ceil_div(n * parts, (few ? 1 : 4) * threads), most = few ? few_block_n : most_block_n;
    block_n = threads == 1 ? most : std::clamp(share, least_block_n, most);
    block_n = round_up(ceil_div(n, ceil_div(n, block_n)), strip_cols);
  }
  /// Vectors of columns of a tile of few rows.
  static constexpr int few_vectors(int rows) { return (TENON_SIMD_AVX512() ? 16 : 4) / rows; }
  bool whole_k() const { return super_blocks >= order.blocks; }
  index_t range_panels() const { return range_rows / gemm_tile::rows; }
  index_t a_panel_values() const { return gemm_tile::rows * order.block + lanes; }
  /// Of few rows only a last narrow panel of columns is packed.
  index_t b_slice_values() const { return (few ? gemm_tile::cols : block_n) * order.block; }
  index_t b_panels() const { return block_n / gemm_tile::cols; }

  /// Rows of c that one row panel holds: `count` of `kernel_rows` are real.
  struct panel_rows {
    index_t first;
    int count, kernel_rows;
  };
  /// Panel `panel` of the rows [first, end). What is left after whole panels is shared by the last two, if it is
  /// little: a panel of one step of rows would wait for memory.
  static panel_rows panel_at(index_t first, index_t end, index_t panel) {
    constexpr index_t whole = gemm_tile::rows, step = gemm_tile::row_step;
    index_t const panels = ceil_div(end - first, whole), rest = end - first - (panels - 1) * whole;
    index_t at = first + panel * whole, rows = std::min(whole, end - at);
    if (rest <= step && panel >= panels - 2 && panels > 1) {
      rows = panel == panels - 2 ? 2 * step : step + rest;
      at = panel == panels - 2 ? at : end - rows;
    }
    return {at, int(rows), gemm_tile::kernel_rows(rows)};
  }

 private:
  static bool reads_in_place(index_t rows, bool in_order) { return rows <= gemm_tile::row_step && in_order; }
  /// Into how many parts the rows are cut for threads (the columns into threads / parts): each thread packs its rows
  /// and its columns, and this makes that least.
  index_t row_parts() const {
    auto const packed = [&](index_t parts) { return double(m) / double(parts) + double(n) * double(parts) / threads; };
    index_t best = 1;
    for (index_t parts = 2; parts <= threads; ++parts)
      if (m >= parts * 4 * gemm_tile::rows && packed(parts) <= packed(best)) best = parts;
    return best;
  }
};

}  // namespace tenon::ops::detail
