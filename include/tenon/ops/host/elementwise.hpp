// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstring>
#include <type_traits>

#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {
namespace detail {

/// function(j, lanes) over [0, n) in pieces for every thread.
template <class Function>
void for_flat_lanes(exec::host_context& ctx, index_t n, Function&& function) {
  ctx.pool().for_range(n, 4 * piece_elements, [&](index_t begin, index_t end) { for_lanes(begin, end, function); });
}

template <class T>
concept VectorElement = requires(T* p, simd::f32x16 v) {
  simd::load(static_cast<T const*>(p));
  simd::store(p, v);
};

/// sums [cols] = the chain over rows [first, last), for columns [begin, end). Four rows a turn: fewer visits to `sums`.
template <class T>
void column_chain(matrix_view<T const> x, index_t first, index_t last, index_t begin, index_t end, float* sums) {
  std::fill(sums + begin, sums + end, 0.0f);
  index_t r = first;
  for (; r + 4 <= last; r += 4) {
    T const *const p0 = row(x, r), *const p1 = row(x, r + 1), *const p2 = row(x, r + 2), *const p3 = row(x, r + 3);
    for_lanes(begin, end, [&](index_t j, int n) TENON_INLINE_LAMBDA {
      auto const sum = simd::load(sums + j, n) + simd::load(p0 + j, n) + simd::load(p1 + j, n) + simd::load(p2 + j, n);
      simd::store(sums + j, sum + simd::load(p3 + j, n), n);
    });
  }
  for (; r < last; ++r)
    for_lanes(begin, end, [&](index_t j, int n) TENON_INLINE_LAMBDA {
      simd::store(sums + j, simd::load(sums + j, n) + simd::load(row(x, r) + j, n), n);
    });
}

}  // namespace detail

template <>
struct kernel_for<add_t, device::host> {
  template <class Y, class X>
  static void run(exec::host_context& ctx, add_args<Y, X> const& a) {
    detail::for_flat_lanes(ctx, a.n, [&](index_t j, int n) TENON_INLINE_LAMBDA {
      simd::store(a.y + j, simd::load(a.y + j, n) + simd::load(a.x + j, n), n);
    });
  }
};

template <>
struct kernel_for<scale_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, scale_args<T> const& a) {
    auto const factor = simd::broadcast(a.factor);
    detail::for_flat_lanes(ctx, a.n, [&](index_t j, int n) TENON_INLINE_LAMBDA {
      simd::store(a.x + j, simd::load(a.x + j, n) * factor, n);
    });
  }
};

template <>
struct kernel_for<convert_t, device::host> {
  template <class To, class From>
  static void run(exec::host_context& ctx, convert_args<To, From> const& a) {
    if constexpr (std::is_same_v<To, From>) {
      if (a.out == a.in) return;
      ctx.pool().for_range(a.n, 4 * detail::piece_elements, [&](index_t begin, index_t end) {
        std::memcpy(a.out + begin, a.in + begin, std::size_t(end - begin) * sizeof(To));
      });
    } else if constexpr (detail::VectorElement<To> && detail::VectorElement<From>) {
      detail::for_flat_lanes(
          ctx, a.n, [&](index_t j, int n) TENON_INLINE_LAMBDA { simd::store(a.out + j, simd::load(a.in + j, n), n); });
    } else {
      ctx.pool().for_range(a.n, detail::piece_elements, [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i) a.out[i] = To(float(a.in[i]));
      });
    }
  }
};

template <>
struct kernel_for<column_sum_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, column_sum_args<T> const& a) {
    index_t const rows = a.x.extent(0), cols = a.x.extent(1);
    detail::require(detail::same_shape(a.x, rows, cols),
                    "tenon::column_sum: the columns of x are not adjacent. Fix: pass the matrix, not transposed.");
    index_t const leaf = detail::leaf_length(a.leaf, rows), leaves = ceil_div(rows, leaf);
    arena_scope scope(ctx.scratch());
    float* const sums = ctx.scratch().allocate<float>(leaves * cols);
    // Whole rows of 1024 columns: 4 KiB of sums stay in the first cache. Few leaves are cut further, for every thread.
    index_t const width = leaves >= 2 * ctx.pool().size() ? 1024 : 128, pieces = ceil_div(cols, width);
    ctx.pool().for_each(leaves * pieces, [&](index_t i) {
      index_t const l = i / pieces, begin = i % pieces * width;
      detail::column_chain(a.x, l * leaf, std::min(rows, (l + 1) * leaf), begin, std::min(cols, begin + width),
                           sums + l * cols);
    });
    detail::combine_leaves(ctx, sums, leaves, cols, a.out, a.accumulate);
  }
};

}  // namespace tenon::ops
