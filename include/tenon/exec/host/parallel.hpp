// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Parallel primitives over a thread pool. Each gives the same bits for every number of threads: what is combined
/// with what depends on the problem (its size and the stated leaf or block length), never on who did it.
/// @test tests/exec/parallel_test.cpp
#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <tenon/core/config.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/core/view.hpp>
#include <tenon/exec/host/thread_pool.hpp>

namespace tenon::exec {

/// function(i) for i in [0, n), several consecutive i at a time on whichever thread is free. `function` must not care
/// which i come first.
template <class Function>
void for_each(thread_pool& pool, index_t n, Function&& function) {
  index_t const grain = std::max<index_t>(1, n / (8 * index_t(pool.size())));
  pool.for_range(n, grain, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) function(i);
  });
}

/// Elements of a leaf of `reduce` and of a block of the scans, when not stated.
inline constexpr index_t default_leaf = 4096;

/// Reduces [0, n) in leaves of `leaf_length` indices: leaf(begin, end) -> Node, and
/// combine(Node& left_and_result, Node const& right) along the fixed tree over the leaf index.
/// @return the root; Node{} when n is 0   @error argument_error when leaf_length is not positive
template <class Leaf, class Combine>
auto reduce(thread_pool& pool, index_t n, index_t leaf_length, Leaf&& leaf, Combine&& combine) {
  using node = std::decay_t<std::invoke_result_t<Leaf&, index_t, index_t>>;
  if (leaf_length <= 0) throw argument_error("tenon::exec::reduce: a leaf has at least one element.");
  if (n <= 0) return node{};
  // A group of a power of two leaves is a node of the tree, so the size of a group changes nothing but the bookkeeping.
  index_t const leaves = ceil_div(n, leaf_length);
  auto const group = index_t(std::bit_ceil(std::size_t(ceil_div(leaves, 64 * index_t(pool.size())))));
  index_t const groups = ceil_div(leaves, group);
  auto const nodes = std::make_unique<node[]>(std::size_t(groups));
  pool.for_each(groups, [&](index_t g) {
    tree<node> sum;
    for (index_t l = g * group, last = std::min(leaves, l + group); l < last; ++l)
      sum.push(leaf(l * leaf_length, std::min(n, (l + 1) * leaf_length)), combine);
    nodes[std::size_t(g)] = sum.finish(combine);
  });
  tree<node> sum;
  for (index_t g = 0; g < groups; ++g) sum.push(std::move(nodes[std::size_t(g)]), combine);
  return sum.finish(combine);
}
/// As above over the elements of a span: leaf(std::span<T>) -> Node.
template <class T, class Leaf, class Combine>
auto reduce(thread_pool& pool, std::span<T> values, Leaf&& leaf, Combine&& combine,
            index_t leaf_length = default_leaf) {
  return reduce(
      pool, index_t(values.size()), leaf_length,
      [&](index_t begin, index_t end) { return leaf(values.subspan(std::size_t(begin), std::size_t(end - begin))); },
      combine);
}

namespace detail {

/// The total of each block, from left to right.
template <class T, class Op>
std::unique_ptr<T[]> block_totals(thread_pool& pool, std::span<T const> in, index_t block, Op& op) {
  index_t const n = index_t(in.size()), blocks = ceil_div(n, block);
  auto totals = std::make_unique<T[]>(std::size_t(blocks));
  pool.for_each(blocks, [&](index_t b) {
    index_t const end = std::min(n, (b + 1) * block);
    T sum = in[std::size_t(b * block)];
    for (index_t i = b * block + 1; i < end; ++i) sum = op(sum, in[std::size_t(i)]);
    totals[std::size_t(b)] = sum;
  });
  return totals;
}
inline void check_scan(std::size_t in, std::size_t out, index_t block) {
  if (in != out)
    throw argument_error("tenon::exec::scan: " + std::to_string(in) + " values go into " + std::to_string(out) +
                         " places. Fix: an output as long as the input.");
  if (block <= 0) throw argument_error("tenon::exec::scan: a block has at least one element.");
}

}  // namespace detail

/// out[i] = in[0] op ... op in[i]. Within a block of `block` elements from left to right; the blocks before it come in
/// as one value, themselves combined from left to right. `out` may be `in`.
/// @error argument_error when the lengths differ
template <class T, class Op = std::plus<>>
void inclusive_scan(thread_pool& pool, std::span<T const> in, std::span<T> out, Op op = {},
                    index_t block = default_leaf) {
  detail::check_scan(in.size(), out.size(), block);
  index_t const n = index_t(in.size()), blocks = ceil_div(n, block);
  auto const totals = detail::block_totals<T>(pool, in, block, op);
  for (index_t b = 1; b < blocks; ++b) totals[std::size_t(b)] = op(totals[std::size_t(b - 1)], totals[std::size_t(b)]);
  pool.for_each(blocks, [&](index_t b) {
    index_t const begin = b * block, end = std::min(n, begin + block);
    T sum = in[std::size_t(begin)];
    for (index_t i = begin; i < end; ++i) {
      if (i != begin) sum = op(sum, in[std::size_t(i)]);
      out[std::size_t(i)] = b == 0 ? sum : op(totals[std::size_t(b - 1)], sum);
    }
  });
}

/// out[i] = init op in[0] op ... op in[i - 1]; `init` comes before the first block, otherwise as `inclusive_scan`.
/// `out` may be `in`.
/// @return init op all of `in`   @error argument_error when the lengths differ
template <class T, class Op = std::plus<>>
T exclusive_scan(thread_pool& pool, std::span<T const> in, std::span<T> out, std::type_identity_t<T> init = {},
                 Op op = {}, index_t block = default_leaf) {
  detail::check_scan(in.size(), out.size(), block);
  index_t const n = index_t(in.size()), blocks = ceil_div(n, block);
  auto const totals = detail::block_totals<T>(pool, in, block, op);
  for (index_t b = 0; b < blocks; ++b) {
    T const next = op(init, totals[std::size_t(b)]);
    totals[std::size_t(b)] = std::exchange(init, next);
  }
  pool.for_each(blocks, [&](index_t b) {
    index_t const begin = b * block, end = std::min(n, begin + block);
    T const before = totals[std::size_t(b)];
    T sum = in[std::size_t(begin)];
    out[std::size_t(begin)] = before;
    for (index_t i = begin + 1; i < end; ++i) {
      T const value = in[std::size_t(i)];
      out[std::size_t(i)] = op(before, sum);
      sum = op(sum, value);
    }
  });
  return init;
}

namespace detail {

/// How many of the first `k` elements of merge(a, b) come from `a`; equal elements of `a` come first.
/// @source Green, McColl, Bader 2012, "GPU merge path", ICS'12
template <class T, class Compare>
index_t merge_split(std::span<T const> a, std::span<T const> b, index_t k, Compare& less) {
  index_t low = std::max<index_t>(0, k - index_t(b.size())), high = std::min(k, index_t(a.size()));
  while (low < high) {
    index_t const middle = (low + high) / 2;  // a[middle] comes before b[k - 1 - middle] unless that one is less
    if (less(b[std::size_t(k - 1 - middle)], a[std::size_t(middle)])) high = middle;
    else low = middle + 1;
  }
  return low;
}

/// Output elements [begin, end) of merging the sorted runs of length `run` that `in` consists of, two by two.
/// A run is a multiple of a piece, so that [begin, end) lies within one pair.
template <class T, class Compare>
void merge_piece(std::span<T const> in, T* out, index_t run, index_t begin, index_t end, Compare& less) {
  index_t const n = index_t(in.size()), first = begin / (2 * run) * (2 * run);
  index_t const middle = std::min(n, first + run), last = std::min(n, first + 2 * run);
  auto const a = in.subspan(std::size_t(first), std::size_t(middle - first));
  auto const b = in.subspan(std::size_t(middle), std::size_t(last - middle));
  index_t const a0 = merge_split<T>(a, b, begin - first, less), a1 = merge_split<T>(a, b, end - first, less);
  index_t const b0 = begin - first - a0, b1 = end - first - a1;
  std::merge(a.data() + a0, a.data() + a1, b.data() + b0, b.data() + b1, out + begin, less);
}

}  // namespace detail

/// Sorts in place; equal elements keep their order, so the result is the same whatever the threads. A merge sort:
/// pieces, then rounds of merges in which all threads share every merge. Takes memory for a second copy.
/// @error what `less` throws, then the order of `values` is unspecified
template <class T, class Compare = std::less<>>
  requires std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T>
void sort(thread_pool& pool, std::span<T> values, Compare less = {}) {
  constexpr index_t piece = 8192;
  index_t const n = index_t(values.size());
  pool.for_range(n, piece, [&](index_t begin, index_t end) {
    std::stable_sort(values.begin() + begin, values.begin() + end, less);
  });
  if (n <= piece) return;
  auto const memory = std::make_unique_for_overwrite<T[]>(values.size());
  std::span<T> from = values, to{memory.get(), values.size()};
  for (index_t run = piece; run < n; run *= 2, std::swap(from, to))
    pool.for_range(n, piece,
                   [&](index_t begin, index_t end) { detail::merge_piece<T>(from, to.data(), run, begin, end, less); });
  if (from.data() != values.data())
    pool.for_range(n, piece, [&](index_t begin, index_t end) {
      std::copy(from.begin() + begin, from.begin() + end, values.begin() + begin);
    });
}

namespace detail {

/// Rows and columns of a block of `transpose`.
inline constexpr index_t transpose_side = 64;

/// out[j][i] = in[i][j] for a block of both with adjacent columns. A few rows are copied next to each other first, then
/// each output line is written as a whole: rows a power of two apart would otherwise push each other out of the cache.
template <class T>
void transpose_block(T const* in, index_t in_stride, T* out, index_t out_stride, index_t rows, index_t cols) {
  constexpr index_t line = std::max<index_t>(1, cache_line_bytes / index_t(sizeof(T)));
  T tile[line][transpose_side];
  for (index_t i = 0; i < rows; i += line) {
    index_t const height = std::min(line, rows - i);
    for (index_t k = 0; k < height; ++k) std::copy_n(in + (i + k) * in_stride, cols, tile[k]);
    for (index_t j = 0; j < cols; ++j) {
      T* const to = out + j * out_stride + i;
      if (height == line)
        for (index_t k = 0; k < line; ++k) to[k] = tile[k][j];
      else
        for (index_t k = 0; k < height; ++k) to[k] = tile[k][j];
    }
  }
}

}  // namespace detail

/// out = in transposed, in square blocks that stay in the first-level cache.
/// @shape in [rows, cols], out [cols, rows], both with any strides; they must not overlap
/// @error argument_error when the shapes do not fit
template <class T>
void transpose(thread_pool& pool, matrix_view<T const> in, matrix_view<T> out) {
  index_t const rows = in.extent(0), cols = in.extent(1);
  if (out.extent(0) != cols || out.extent(1) != rows)
    throw argument_error("tenon::exec::transpose: [" + std::to_string(rows) + ", " + std::to_string(cols) +
                         "] does not become [" + std::to_string(out.extent(0)) + ", " + std::to_string(out.extent(1)) +
                         "]. Fix: an output with the sizes swapped.");
  constexpr index_t side = detail::transpose_side;
  bool const adjacent = in.stride(1) == 1 && out.stride(1) == 1;
  index_t const across = ceil_div(cols, side);
  pool.for_each(ceil_div(rows, side) * across, [&](index_t b) {
    index_t const i0 = b / across * side, j0 = b % across * side;
    index_t const height = std::min(side, rows - i0), width = std::min(side, cols - j0);
    if (adjacent) return detail::transpose_block(&in(i0, j0), in.stride(0), &out(j0, i0), out.stride(0), height, width);
    for (index_t j = 0; j < width; ++j)
      for (index_t i = 0; i < height; ++i) out(j0 + j, i0 + i) = in(i0 + i, j0 + j);
  });
}

}  // namespace tenon::exec
