// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The activation functions and their derivatives on sixteen lanes; shared by the activation operations and the
/// epilogue of gemm, so that both give the same bits.
#include <tenon/exec/host/math.hpp>
#include <tenon/ops/gemm.hpp>

namespace tenon::ops {
namespace detail {

inline constexpr float gelu_scale = 0x1.988454p-1f;      // sqrt(2 / pi)
inline constexpr float gelu_cubic = 0x1.6e4e26p-5f;      // 0.044715
inline constexpr float sqrt_half = 0x1.6a09e6p-1f;       // sqrt(1 / 2)
inline constexpr float normal_density = 0x1.988454p-2f;  // 1 / sqrt(2 pi)

/// gelu's tanh form is x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3): 0.5 (1 + tanh(u)) = sigmoid(2 u) is
/// cheaper and does not cancel where x is negative. This is 2 u.
TENON_ALWAYS_INLINE simd::f32x16 gelu_tanh_argument(simd::f32x16 x) {
  using namespace simd;
  return (x * broadcast(2.0f * gelu_scale)) * fma(x * x, broadcast(gelu_cubic), broadcast(1.0f));
}

}  // namespace detail

/// activation(x), lane by lane.
/// @source gelu: Hendrycks, Gimpel 2016, arXiv:1606.08415; silu: Elfwing et al. 2017, arXiv:1702.03118
/// @test tests/ops/activation_test.cpp
template <activation_kind Kind>
TENON_ALWAYS_INLINE simd::f32x16 apply_activation(simd::f32x16 x) {
  using namespace simd;
  if constexpr (Kind == activation_kind::gelu_tanh) {
    return x / (broadcast(1.0f) + simd::exp(negate(detail::gelu_tanh_argument(x))));
  } else if constexpr (Kind == activation_kind::gelu_erf) {
    f32x16 const half = x * broadcast(0.5f);
    return fma(half, simd::erf(x * broadcast(detail::sqrt_half)), half);
  } else if constexpr (Kind == activation_kind::silu) {
    return x / (broadcast(1.0f) + simd::exp(negate(x)));
  } else if constexpr (Kind == activation_kind::relu) {
    return select(x < zeros(), zeros(), x);
  } else {
    return x;
  }
}

/// d activation(x) / dx, lane by lane; relu's is 0 at 0.
template <activation_kind Kind>
TENON_ALWAYS_INLINE simd::f32x16 activation_derivative(simd::f32x16 x) {
  using namespace simd;
  f32x16 const one = broadcast(1.0f), half = broadcast(0.5f);
  if constexpr (Kind == activation_kind::gelu_tanh) {
    // Beyond 16 the derivative is 0 or 1 to the last bit; the bound keeps x^2 finite. `x` comes first: NaN passes.
    f32x16 const b = max(min(x, broadcast(16.0f)), broadcast(-16.0f));
    f32x16 const s = simd::sigmoid(detail::gelu_tanh_argument(b));
    f32x16 const slope = fma(b * b, broadcast(3.0f * detail::gelu_cubic), one) * broadcast(2.0f * detail::gelu_scale);
    return fma((b * s) * (one - s), slope, s);
  } else if constexpr (Kind == activation_kind::gelu_erf) {
    f32x16 const b = max(min(x, broadcast(16.0f)), broadcast(-16.0f));
    f32x16 const density = simd::exp((b * b) * broadcast(-0.5f)) * broadcast(detail::normal_density);
    return fma(b, density, fma(half, simd::erf(b * broadcast(detail::sqrt_half)), half));
  } else if constexpr (Kind == activation_kind::silu) {
    f32x16 const s = simd::sigmoid(x);
    return fma(x * s, one - s, s);
  } else if constexpr (Kind == activation_kind::relu) {
    return select(x <= zeros(), zeros(), one);
  } else {
    return one;
  }
}

/// function(std::integral_constant<activation_kind, kind>): the switch, outside of the loop over elements.
template <class Function>
void for_activation(activation_kind kind, Function&& function) {
  using enum activation_kind;
  switch (kind) {
    case none: return function(std::integral_constant<activation_kind, none>{});
    case gelu_tanh: return function(std::integral_constant<activation_kind, gelu_tanh>{});
    case gelu_erf: return function(std::integral_constant<activation_kind, gelu_erf>{});
    case silu: return function(std::integral_constant<activation_kind, silu>{});
    case relu: return function(std::integral_constant<activation_kind, relu>{});
  }
}
/// As the templates, with the kind known at run time only.
TENON_ALWAYS_INLINE simd::f32x16 apply_activation(activation_kind kind, simd::f32x16 x) {
  using enum activation_kind;
  switch (kind) {
    case none: return x;
    case gelu_tanh: return apply_activation<gelu_tanh>(x);
    case gelu_erf: return apply_activation<gelu_erf>(x);
    case silu: return apply_activation<silu>(x);
    case relu: return apply_activation<relu>(x);
  }
  return x;
}
TENON_ALWAYS_INLINE simd::f32x16 activation_derivative(activation_kind kind, simd::f32x16 x) {
  using enum activation_kind;
  switch (kind) {
    case none: return activation_derivative<none>(x);
    case gelu_tanh: return activation_derivative<gelu_tanh>(x);
    case gelu_erf: return activation_derivative<gelu_erf>(x);
    case silu: return activation_derivative<silu>(x);
    case relu: return activation_derivative<relu>(x);
  }
  return x;
}

}  // namespace tenon::ops
