// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cmath>

#include <tenon/ops/host/rows.hpp>
#include <tenon/ops/norm.hpp>

namespace tenon::ops {
namespace detail {

/// Both norms, for one kernel: without `Centered`, mean and bias are absent.
template <class T>
struct norm_forward_task {
  matrix_view<T const> x;
  T const* weight;
  T const* bias;
  float weight_offset;
  float epsilon;
  matrix_view<T> out;
  float* mean;
  float* rstd;
};
template <class T>
struct norm_backward_task {
  matrix_view<T const> d_out;
  matrix_view<T const> x;
  float const* mean;
  float const* rstd;
  T const* weight;
  float weight_offset;
  matrix_view<T> d_x;
  matrix_view<T const> add_to;
};

/// weight + offset; 1 when there is no weight. LayerNorm passes the offset 0, which changes nothing.
template <class T>
TENON_ALWAYS_INLINE simd::f32x16 norm_weight(T const* weight, float offset, index_t j, int n) {
  return weight ? simd::load(weight + j, n) + simd::broadcast(offset) : simd::broadcast(1.0f);
}

/// `Rows` rows at once: one row's chain of sixteen lanes leaves most of the machine idle, several fill it.
template <bool Centered, int Rows, class T>
void norm_forward_rows(norm_forward_task<T> const& a, index_t first) {
  using namespace simd;
  index_t const cols = a.x.extent(1);
  T const* x[Rows];
  T* out[Rows];
  f32x16 sum[Rows];
  float mean[Rows], rstd[Rows];
  for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
    x[r] = row(a.x, first + r), out[r] = row(a.out, first + r);
    sum[r] = zeros(), mean[r] = 0.0f;
  });
  if constexpr (Centered) {
    for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
      for_each_constant<Rows>([&](int r) { sum[r] = sum[r] + load(x[r] + j, n); });
    });
    for_each_constant<Rows>([&](int r)
                                TENON_INLINE_LAMBDA { mean[r] = reduce_add(sum[r]) / float(cols), sum[r] = zeros(); });
  }
  for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
    for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
      // Lanes past the end are filled with the mean, so that they add +0.
      f32x16 const d = Centered ? load(x[r] + j, n, mean[r]) - broadcast(mean[r]) : load(x[r] + j, n);
      sum[r] = fma(d, d, sum[r]);
    });
  });
  for_each_constant<Rows>(
      [&](int r) TENON_INLINE_LAMBDA { rstd[r] = 1.0f / std::sqrt(reduce_add(sum[r]) / float(cols) + a.epsilon); });
  for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
    f32x16 const w = norm_weight(a.weight, a.weight_offset, j, n), b = a.bias ? load(a.bias + j, n) : zeros();
    for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
      f32x16 const v = load(x[r] + j, n), d = Centered ? v - broadcast(mean[r]) : v, normal = d * broadcast(rstd[r]);
      store(out[r] + j, Centered ? fma(normal, w, b) : normal * w, n);
    });
  });
  for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
    if (a.mean) a.mean[first + r] = mean[r];
    if (a.rstd) a.rstd[first + r] = rstd[r];
  });
}

template <bool Centered, class T>
void norm_forward(exec::host_context& ctx, norm_forward_task<T> const& a) {
  ctx.pool().for_range(a.x.extent(0), piece_rows(a.x.extent(1), 4), [&](index_t begin, index_t end) {
    index_t r = begin;
    for (; r + 4 <= end; r += 4) norm_forward_rows<Centered, 4>(a, r);
    for (; r < end; ++r) norm_forward_rows<Centered, 1>(a, r);
  });
}

/// d_x of `Rows` rows when `Input`; adds to d_weight and d_bias over columns [begin, end) when `Weight`.
template <bool Centered, bool Input, bool Weight, int Rows, class T>
void norm_backward_rows(norm_backward_task<T> const& a, index_t first, index_t begin, index_t end, float* d_weight,
                        float* d_bias) {
  using namespace simd;
  index_t const cols = a.x.extent(1);
  T const *x[Rows], *d_out[Rows], *add[Rows];
  T* d_x[Rows];
  f32x16 mean[Rows], rstd[Rows], mean_g[Rows], mean_gx[Rows];
  for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
    x[r] = row(a.x, first + r), d_out[r] = row(a.d_out, first + r);
    mean[r] = broadcast(Centered ? a.mean[first + r] : 0.0f), rstd[r] = broadcast(a.rstd[first + r]);
    mean_g[r] = zeros(), mean_gx[r] = zeros();
  });
  auto const normal = [&](int r, index_t j, int n) TENON_INLINE_LAMBDA {
    f32x16 const v = load(x[r] + j, n);
    return (Centered ? v - mean[r] : v) * rstd[r];
  };
  if constexpr (Input) {
    for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
      d_x[r] = row(a.d_x, first + r), add[r] = a.add_to.empty() ? nullptr : row(a.add_to, first + r);
    });
    for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
      f32x16 const w = norm_weight(a.weight, a.weight_offset, j, n);
      for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
        f32x16 const d = load(d_out[r] + j, n);  // lanes past the end are +0 and stay out of both sums
        if constexpr (Centered) mean_g[r] = fma(d, w, mean_g[r]);
        mean_gx[r] = fma(d * w, normal(r, j, n), mean_gx[r]);
      });
    });
    for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
      mean_g[r] = broadcast(reduce_add(mean_g[r]) / float(cols));
      mean_gx[r] = broadcast(reduce_add(mean_gx[r]) / float(cols));
    });
  }
  for_lanes(begin, end, [&](index_t j, int n) TENON_INLINE_LAMBDA {
    f32x16 const w = norm_weight(a.weight, a.weight_offset, j, n);
    f32x16 sum_w = zeros(), sum_b = zeros();
    if constexpr (Weight) sum_w = load(d_weight + j, n), sum_b = load(d_bias + j, n);
    for_each_constant<Rows>([&](int r) TENON_INLINE_LAMBDA {
      f32x16 const d = load(d_out[r] + j, n), v = normal(r, j, n);
      if constexpr (Weight) sum_w = fma(d, v, sum_w), sum_b = sum_b + d;
      if constexpr (Input) {
        f32x16 const inner = fma(negate(v), mean_gx[r], Centered ? fma(d, w, negate(mean_g[r])) : d * w);
        store(d_x[r] + j, add[r] ? fma(inner, rstd[r], load(add[r] + j, n)) : inner * rstd[r], n);
      }
    });
    if constexpr (Weight) store(d_weight + j, sum_w, n), store(d_bias + j, sum_b, n);
  });
}

template <bool Centered, bool Input, bool Weight, class T>
void norm_backward_range(norm_backward_task<T> const& a, index_t first, index_t last, index_t begin, index_t end,
                         float* d_weight, float* d_bias) {
  if constexpr (Weight) {
    std::fill(d_weight + begin, d_weight + end, 0.0f);
    std::fill(d_bias + begin, d_bias + end, 0.0f);
  }
  index_t r = first;
  for (; r + 2 <= last; r += 2) norm_backward_rows<Centered, Input, Weight, 2>(a, r, begin, end, d_weight, d_bias);
  for (; r < last; ++r) norm_backward_rows<Centered, Input, Weight, 1>(a, r, begin, end, d_weight, d_bias);
}

/// Everything in one pass, a leaf at a time, when there are leaves for every thread; else rows, then columns of leaves.
template <bool Centered, class T>
void norm_backward(exec::host_context& ctx, norm_backward_task<T> const& a, index_t leaf, float* d_weight,
                   float* d_bias, bool accumulate) {
  index_t const rows = a.x.extent(0), cols = a.x.extent(1);
  leaf = leaf_length(leaf, rows);
  index_t const leaves = ceil_div(rows, leaf);
  arena_scope scope(ctx.scratch());
  float* const weight_sums = ctx.scratch().allocate<float>(leaves * cols);
  float* const bias_sums = ctx.scratch().allocate<float>(leaves * cols);
  bool const wants_weight = d_weight || d_bias;
  auto const last_row = [&](index_t l) { return std::min(rows, (l + 1) * leaf); };
  if (wants_weight && leaves >= 2 * ctx.pool().size()) {
    ctx.pool().for_each(leaves, [&](index_t l) {
      norm_backward_range<Centered, true, true>(a, l * leaf, last_row(l), 0, cols, weight_sums + l * cols,
                                                bias_sums + l * cols);
    });
  } else {
    index_t const width = 128, pieces = ceil_div(cols, width);
    if (wants_weight)
      ctx.pool().for_each(leaves * pieces, [&](index_t i) {
        index_t const l = i / pieces, begin = i % pieces * width;
        norm_backward_range<Centered, false, true>(a, l * leaf, last_row(l), begin, std::min(cols, begin + width),
                                                   weight_sums + l * cols, bias_sums + l * cols);
      });
    // Last, because d_x may alias what the sums above read.
    ctx.pool().for_range(rows, piece_rows(cols, 2), [&](index_t begin, index_t end) {
      norm_backward_range<Centered, true, false>(a, begin, end, 0, cols, nullptr, nullptr);
    });
  }
  if (d_weight) combine_leaves(ctx, weight_sums, leaves, cols, d_weight, accumulate);
  if (d_bias) combine_leaves(ctx, bias_sums, leaves, cols, d_bias, accumulate);
}

template <class Args>
void check_norm_backward(Args const& a, char const* what) {
  index_t const rows = a.x.extent(0), cols = a.x.extent(1);
  require(same_shape(a.x, rows, cols) && same_shape(a.d_out, rows, cols) && same_shape(a.d_x, rows, cols) &&
              (a.add_to.empty() || same_shape(a.add_to, rows, cols)),
          what);
}

}  // namespace detail

template <>
struct kernel_for<layer_norm_forward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, layer_norm_forward_args<T> const& a) {
    detail::require(detail::same_shape(a.x, a.x.extent(0), a.x.extent(1)) &&
                        detail::same_shape(a.out, a.x.extent(0), a.x.extent(1)),
                    "tenon::layer_norm_forward: out is not shaped as x. Fix: both [t,c], columns adjacent.");
    detail::norm_forward<true, T>(ctx, {a.x, a.weight, a.bias, 0.0f, a.epsilon, a.out, a.mean, a.rstd});
  }
};
template <>
struct kernel_for<rms_norm_forward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, rms_norm_forward_args<T> const& a) {
    detail::require(detail::same_shape(a.x, a.x.extent(0), a.x.extent(1)) &&
                        detail::same_shape(a.out, a.x.extent(0), a.x.extent(1)),
                    "tenon::rms_norm_forward: out is not shaped as x. Fix: both [t,c], columns adjacent.");
    detail::norm_forward<false, T>(ctx, {a.x, a.weight, nullptr, a.weight_offset, a.epsilon, a.out, nullptr, a.rstd});
  }
};
template <>
struct kernel_for<layer_norm_backward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, layer_norm_backward_args<T> const& a) {
    detail::check_norm_backward(
        a, "tenon::layer_norm_backward: d_out, x, d_x and add_to differ in shape. Fix: all [t,c], columns adjacent.");
    detail::norm_backward<true, T>(ctx, {a.d_out, a.x, a.mean, a.rstd, a.weight, 0.0f, a.d_x, a.add_to}, a.leaf,
                                   a.d_weight, a.d_bias, a.accumulate);
  }
};
template <>
struct kernel_for<rms_norm_backward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, rms_norm_backward_args<T> const& a) {
    detail::check_norm_backward(
        a, "tenon::rms_norm_backward: d_out, x, d_x and add_to differ in shape. Fix: all [t,c], columns adjacent.");
    detail::norm_backward<false, T>(ctx, {a.d_out, a.x, nullptr, a.rstd, a.weight, a.weight_offset, a.d_x, a.add_to},
                                    a.leaf, a.d_weight, nullptr, a.accumulate);
  }
};

}  // namespace tenon::ops
