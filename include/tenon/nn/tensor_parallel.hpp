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
/// Elements [begin, end) of y = sums + bias + residual, in the order and with the roundings of ops::gemm. y and residual
/// begin with element `origin`.
template <class T>
void finish_sums(float const* sums, index_t begin, index_t end, index_t cols, index_t origin, float const* bias,
                 T const* residual, T* y) {
  auto const finish = [&](index_t at, index_t col, int n) TENON_INLINE_LAMBDA {
    auto x = simd::load(sums + (at - begin), n);
    if (bias) x = x + simd::load(bias + col, n);
    if (residual) x = x + simd::load(residual + (at - origin), n);
    simd::store(y + (at - origin), x, n);
  };
  for (index_t at = begin; at < end;) {  // row by row
    index_t col = at % cols;
    index_t const stop = std::min(end, at - col + cols);
    for (; at + lanes <= stop; at += lanes, col += lanes) finish(at, col, lanes);
    if (at < stop) finish(at, col, int(stop - at));
    at = stop;
  }
}

/// Where each rank's tokens begin in a matrix of all of them, in elements.
template <class Pass>
std::vector<std::size_t> token_cuts(Pass const& pass, index_t cols) {
  std::vector<std::size_t> cuts;
  for (int r = 0; r < pass.tensor_ranks(); ++r) cuts.push_back(std::size_t(pass.tokens_of(r).first * cols));
  cuts.push_back(std::size_t(pass.tokens() * cols));
  return cuts;
}
template <class T, class Group>
void gather(Group& group, matrix_view<T> m, std::vector<std::size_t> cuts) {
  for (auto& at : cuts) at *= sizeof(T);
  group.all_gather(std::as_writable_bytes(std::span(m.data(), std::size_t(m.size()))), cuts);
}
/// Rank p is sent the span sends(p), and what it sends fills receives(p).
template <class Group, class Sends, class Receives>
void trade(Group& group, Sends&& sends, Receives&& receives) {
  std::vector<std::span<std::byte const>> out;
  std::vector<std::span<std::byte>> in;
  for (int p = 0; p < group.size(); ++p) {
    out.push_back(std::as_bytes(sends(p)));
    in.push_back(std::as_writable_bytes(receives(p)));
  }
  group.all_to_all(out, in);
}
}  // namespace detail

/// Every rank has its tokens of x; then all of them, where tokens are cut.
template <class Pass, class T>
void gather_tokens(Pass& pass, matrix_view<T> x) {
  if constexpr (Pass::cuts_tokens) detail::gather(pass.mesh->tensor, x, detail::token_cuts(pass, x.extent(1)));
}
/// All tokens of `x`, of which this rank has its own: `x` itself where tokens are not cut, else a copy in scratch of the
/// caller's scope.
template <class Pass, class T>
matrix_view<T const> all_tokens(Pass& pass, matrix_view<T const> x) {
  if constexpr (!Pass::cuts_tokens) return x;
  auto const whole = pass.template allocate<T>(x.extent(1), false);
  std::copy_n(x.data(), x.size(), whole.data() + pass.own_tokens().first * x.extent(1));
  gather_tokens(pass, whole);
  return whole;
}
/// A gradient that is a sum over the tokens that a rank has becomes that over all, on every rank. Null: nothing.
template <class Pass>
void sum_over_tokens(Pass& pass, float* gradient, index_t size) {
  if constexpr (Pass::cuts_tokens)
    if (gradient) comm::all_reduce(pass.mesh->tensor, std::span(gradient, std::size_t(size)));
}

/// y = residual + ((the sum of `partial` over the tensor ranks, by the tree) + bias), on every rank: to the bit what
/// ops::gemm writes on one rank. An all-reduce that sends 4 bytes an element to the owner, and what T takes back; where
/// tokens are cut, y and residual are this rank's, and nothing is sent back.
/// @shape partial [t, n]  y [t, n], or this rank's tokens  bias [n] or null  residual as y, or empty; may be y. All dense
template <class Pass, class T>
void sum_over_tensor_ranks(Pass& pass, matrix_view<float const> partial, matrix_view<T> y, float const* bias = nullptr,
                           matrix_view<T const> residual = {}) {
  auto& group = pass.mesh->tensor;
  index_t const cols = y.extent(1);
  auto const cuts = Pass::cuts_tokens ? detail::token_cuts(pass, cols)
                                      : comm::even_cuts(std::size_t(y.size()), group.size(), std::size_t(lanes));
  index_t const origin = pass.own_tokens().first * cols;
  comm::node_sum const sum(group.size());
  std::vector<int> const one(std::size_t(group.size()), 1);
  float const* const mine = partial.data();
  group.visit_shards(std::span(&mine, 1), one, cuts,
                     [&](std::size_t first, std::size_t last, std::span<float const* const> vectors) {
                       sum(vectors, last - first, [&](std::size_t begin, std::size_t end, float const* sums) {
                         detail::finish_sums(sums, index_t(first + begin), index_t(first + end), cols, origin, bias,
                                             residual.data(), y.data());
                       });
                     });
  if constexpr (!Pass::cuts_tokens) detail::gather(group, y, cuts);
}

}  // namespace tenon::nn
