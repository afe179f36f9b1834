// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What blocks share that tensor parallelism cuts: who holds which leaves, and sums over ranks.
///
/// Sums over a dimension that is cut are cut into leaves by the arithmetic contract; a rank holds an aligned group of
/// them, which is a node of the tree over leaves. So the tree over the ranks' nodes gives the bits of one rank.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <tenon/comm/reduce.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/parameter.hpp>
#include <tenon/exec/host/simd.hpp>

namespace tenon::nn {

/// Features that each of `ranks` ranks holds of a dimension in leaves of `leaf` (0: one leaf), the last ones perhaps less;
/// 0: its leaves cannot be shared out.
constexpr index_t share_of_ranks(index_t extent, index_t leaf, int ranks) {
  index_t const leaf_rows = leaf ? leaf : extent;
  index_t const leaves = index_t(std::bit_ceil(std::uint64_t(ceil_div(extent, leaf_rows))));
  return std::has_single_bit(unsigned(ranks)) && ranks <= leaves ? leaves / ranks * leaf_rows : 0;
}

/// What rank `rank` of `ranks` holds of a dimension in leaves of `leaf` (0: one leaf). The last ranks may hold little or
/// nothing where leaves are rounded up. @param what its name, for messages
/// @error argument_error when the leaves cannot be shared out, or a cut is no multiple of 16 (the unit of gradient norms)
inline row_range share_of_rank(std::string const& what, index_t extent, index_t leaf, int rank, int ranks) {
  index_t const share = share_of_ranks(extent, leaf, ranks), first = std::min(extent, rank * share);
  auto const refuse = [&](std::string const& why) {
    throw argument_error("tenon::nn: " + what + " has " + std::to_string(extent) + " features in leaves of " +
                         std::to_string(leaf ? leaf : extent) + ", to be cut over " + std::to_string(ranks) +
                         " ranks: " + why);
  };
  if (share == 0)
    refuse(
        "each takes the same power of two of leaves. Fix: 1, 2, 4 or 8 tensor ranks, not more than there are "
        "leaves; attention has as many as the largest power of two that divides its KV heads.");
  if (share % lanes != 0)
    refuse("each gets " + std::to_string(share) +
           ". Fix: fewer tensor ranks, or a width of which each gets a "
           "multiple of " +
           std::to_string(lanes) + ".");
  return {first, std::min(extent, first + share) - first};
}

/// `product` [t, n] = what `compute` writes there, or -0, which changes no sum, where this rank has no leaf of the sum.
template <class Compute>
void partial_sum(matrix_view<float> product, index_t summands, Compute&& compute) {
  if (summands > 0) compute();
  else std::fill_n(product.data(), product.size(), -0.0f);
}

namespace detail {
/// Elements [begin, end) of y = sums + bias + residual, in the order and with the roundings of ops::gemm.
template <class T>
void finish_sums(float const* sums, index_t begin, index_t end, index_t cols, float const* bias, T const* residual,
                 T* y) {
  auto const finish = [&](index_t at, index_t col, int n) TENON_INLINE_LAMBDA {
    auto x = simd::load(sums + (at - begin), n);
    if (bias) x = x + simd::load(bias + col, n);
    if (residual) x = x + simd::load(residual + at, n);
    simd::store(y + at, x, n);
  };
  for (index_t at = begin; at < end;) {  // row by row
    index_t col = at % cols;
    index_t const stop = std::min(end, at - col + cols);
    for (; at + lanes <= stop; at += lanes, col += lanes) finish(at, col, lanes);
    if (at < stop) finish(at, col, int(stop - at));
    at = stop;
  }
}
}  // namespace detail

/// y = residual + ((the sum of `partial` over the tensor ranks, by the tree) + bias), on every rank: to the bit what
/// ops::gemm writes on one rank. An all-reduce that sends 4 bytes an element to the owner, and what T takes back.
/// @shape partial, y [t, n], dense  bias [n] or null  residual [t, n], dense, or empty; may be y
template <class Pass, class T>
void sum_over_tensor_ranks(Pass& pass, matrix_view<float const> partial, matrix_view<T> y, float const* bias = nullptr,
                           matrix_view<T const> residual = {}) {
  auto& group = pass.mesh->tensor;
  auto cuts = comm::even_cuts(std::size_t(y.size()), group.size(), std::size_t(lanes));
  comm::node_sum const sum(group.size());
  std::vector<int> const one(std::size_t(group.size()), 1);
  float const* const mine = partial.data();
  group.visit_shards(std::span(&mine, 1), one, cuts,
                     [&](std::size_t first, std::size_t last, std::span<float const* const> vectors) {
                       sum(vectors, last - first, [&](std::size_t begin, std::size_t end, float const* sums) {
                         detail::finish_sums(sums, index_t(first + begin), index_t(first + end), y.extent(1), bias,
                                             residual.data(), y.data());
                       });
                     });
  for (auto& at : cuts) at *= sizeof(T);
  group.all_gather(std::as_writable_bytes(std::span(y.data(), std::size_t(y.size()))), cuts);
}

}  // namespace tenon::nn
