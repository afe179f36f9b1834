// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What happens to a finished tile on its way into c: bias, activation, residual, old value, rounding.
#include <tenon/exec/host/simd.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/host/activation_math.hpp>
#include <tenon/ops/host/gemm_blocking.hpp>

namespace tenon::ops::detail {

/// Sixteen elements `stride` apart, the first n of them.
template <class T>
TENON_ALWAYS_INLINE simd::f32x16 load_strided(T const* p, index_t stride, int n) {
  if (stride == 1) return simd::load(p, n);
  float t[lanes] = {};
  for (int i = 0; i < n; ++i) t[i] = float(p[i * stride]);
  return simd::load(t);
}
template <class T>
TENON_ALWAYS_INLINE void store_strided(T* p, index_t stride, simd::f32x16 a, int n) {
  if (stride == 1) return simd::store(p, a, n);
  T t[lanes];
  simd::store(t, a);
  for (int i = 0; i < n; ++i) p[i * stride] = t[i];
}

template <class C>
struct gemm_epilogue {
  matrix_view<C> c;
  float const* bias;
  bool bias_per_row;  ///< c is seen transposed
  activation_kind activation;
  bool accumulate;
  matrix_view<C const> residual;
  matrix_view<C> pre_activation;

  /// Nothing but a store: the kernel can write to c itself.
  bool plain() const {
    return std::same_as<C, float> && !bias && !accumulate && activation == activation_kind::none && residual.empty() &&
           pre_activation.empty() && c.stride(1) == 1;
  }

  /// tile [rows, cols], `tile_stride` between rows, goes to c at (row, col).
  TENON_NOINLINE void store_tile(float const* tile, index_t tile_stride, index_t row, index_t col, int rows,
                                 int cols) const {
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < cols; j += lanes)
        store_lanes(simd::load(tile + i * tile_stride + j), row + i, col + j, std::min(lanes, cols - j));
  }

 private:
  TENON_ALWAYS_INLINE void store_lanes(simd::f32x16 x, index_t i, index_t j, int n) const {
    if (bias) x = x + (bias_per_row ? simd::broadcast(bias[i]) : simd::load(bias + j, n));
    if (!pre_activation.empty()) store_strided(&pre_activation(i, j), pre_activation.stride(1), x, n);
    if (activation != activation_kind::none) x = apply_activation(activation, x);
    if (!residual.empty()) x = x + load_strided(&residual(i, j), residual.stride(1), n);
    C* const to = &c(i, j);
    if (accumulate) x = x + load_strided(static_cast<C const*>(to), c.stride(1), n);
    store_strided(to, c.stride(1), x, n);
  }
};

}  // namespace tenon::ops::detail
