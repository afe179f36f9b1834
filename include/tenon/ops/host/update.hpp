// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cmath>

#include <tenon/ops/host/elementwise.hpp>
#include <tenon/ops/host/gemm.hpp>
#include <tenon/ops/host/grad_norm.hpp>
#include <tenon/ops/host/rows.hpp>
#include <tenon/ops/update.hpp>

namespace tenon::ops {
namespace detail {

/// base^n by squaring: the same bits with every C library. Not inlined, so that its last product meets no sum.
TENON_NOINLINE inline double power(double base, index_t n) {
  double result = 1;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2) result *= base;
  return result;
}
/// 1 - learning_rate weight_decay; the product of two floats is exact in double.
inline simd::f32x16 decay_factor(float learning_rate, float weight_decay) {
  return simd::broadcast(float(1.0 - double(learning_rate) * double(weight_decay)));
}
template <class T>
TENON_ALWAYS_INLINE void store_parameter(float* parameter, T* storage, simd::f32x16 value, index_t j, int n) {
  simd::store(parameter + j, value, n);
  if (storage) simd::store(storage + j, value, n);
}

}  // namespace detail

template <>
struct kernel_for<adamw_update_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, adamw_update_args<T> const& a) {
    using namespace simd;
    double const correction1 = 1.0 - detail::power(double(a.beta1), a.step);
    double const correction2 = 1.0 - detail::power(double(a.beta2), a.step);
    f32x16 const beta1 = broadcast(a.beta1), rest1 = broadcast(float(1.0 - double(a.beta1)));
    f32x16 const beta2 = broadcast(a.beta2), rest2 = broadcast(float(1.0 - double(a.beta2)));
    f32x16 const rate = broadcast(float(-double(a.learning_rate) / correction1));
    f32x16 const root = broadcast(float(1.0 / std::sqrt(correction2))), epsilon = broadcast(a.epsilon);
    f32x16 const decay = detail::decay_factor(a.learning_rate, a.weight_decay), scale = broadcast(a.gradient_scale);
    detail::for_flat_lanes(ctx, a.n, [=](index_t j, int n) TENON_INLINE_LAMBDA {
      f32x16 const g = load(a.gradient + j, n) * scale;
      f32x16 const m = fma(load(a.m + j, n), beta1, g * rest1), v = fma(load(a.v + j, n), beta2, (g * g) * rest2);
      store(a.m + j, m, n);
      store(a.v + j, v, n);
      f32x16 const direction = m / fma(simd::sqrt(v), root, epsilon);
      detail::store_parameter(a.parameter, a.storage, fma(direction, rate, load(a.parameter + j, n) * decay), j, n);
    });
  }
};

template <>
struct kernel_for<lion_update_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, lion_update_args<T> const& a) {
    using namespace simd;
    f32x16 const beta1 = broadcast(a.beta1), rest1 = broadcast(float(1.0 - double(a.beta1)));
    f32x16 const beta2 = broadcast(a.beta2), rest2 = broadcast(float(1.0 - double(a.beta2)));
    f32x16 const up = broadcast(a.learning_rate), down = broadcast(-a.learning_rate),
                 scale = broadcast(a.gradient_scale);
    f32x16 const decay = detail::decay_factor(a.learning_rate, a.weight_decay), nothing = broadcast(0.0f);
    detail::for_flat_lanes(ctx, a.n, [=](index_t j, int n) TENON_INLINE_LAMBDA {
      f32x16 const g = load(a.gradient + j, n) * scale, m = load(a.m + j, n);
      f32x16 const direction = fma(m, beta1, g * rest1);
      // Zero and NaN are neither: they are the step themselves.
      f32x16 const step = select(direction < nothing, up, select(nothing < direction, down, direction));
      store(a.m + j, fma(m, beta2, g * rest2), n);
      detail::store_parameter(a.parameter, a.storage, fma(load(a.parameter + j, n), decay, step), j, n);
    });
  }
};

template <>
struct kernel_for<sgd_update_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, sgd_update_args<T> const& a) {
    using namespace simd;
    detail::require(a.m || a.momentum == 0.0f, "tenon::sgd_update: momentum without m. Fix: a buffer of n floats.");
    f32x16 const momentum = broadcast(a.momentum), rate = broadcast(-a.learning_rate);
    f32x16 const decay = detail::decay_factor(a.learning_rate, a.weight_decay), scale = broadcast(a.gradient_scale);
    detail::for_flat_lanes(ctx, a.n, [=](index_t j, int n) TENON_INLINE_LAMBDA {
      f32x16 const g = load(a.gradient + j, n) * scale;
      f32x16 step = g;
      if (a.m) {
        f32x16 const m = fma(load(a.m + j, n), momentum, g);
        store(a.m + j, m, n);
        step = a.nesterov ? fma(m, momentum, g) : m;
      }
      detail::store_parameter(a.parameter, a.storage, fma(step, rate, load(a.parameter + j, n) * decay), j, n);
    });
  }
};

template <>
struct kernel_for<muon_update_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, muon_update_args<T> const& a) {
    using namespace simd;
    arena_scope scope(ctx.scratch());
    index_t const n = a.rows * a.cols;
    float* x = ctx.scratch().allocate<float>(n);
    float* other = ctx.scratch().allocate<float>(n);
    f32x16 const momentum = broadcast(a.momentum), scale = broadcast(a.gradient_scale);
    detail::for_flat_lanes(ctx, n, [=](index_t j, int k) TENON_INLINE_LAMBDA {
      f32x16 const g = load(a.gradient + j, k) * scale, m = fma(load(a.m + j, k), momentum, g);
      store(a.m + j, m, k);
      store(x + j, a.nesterov ? fma(m, momentum, g) : m, k);
    });
    exact_sum squares;
    norm_part const whole{x, a.rows, a.cols};
    detail::add_sum_of_squares(ctx, {&whole, 1}, squares);
    ops::scale(ctx, scale_args<float>{x, n, float(1.0 / (std::sqrt(squares.value()) + 1e-7))});
    orthogonalize(ctx, a, x, other);
    double const stretch = a.rows > a.cols ? std::sqrt(double(a.rows) / double(a.cols)) : 1.0;
    f32x16 const rate = broadcast(float(-double(a.learning_rate) * stretch));
    f32x16 const decay = detail::decay_factor(a.learning_rate, a.weight_decay);
    detail::for_flat_lanes(ctx, n, [=](index_t j, int k) TENON_INLINE_LAMBDA {
      detail::store_parameter(a.parameter, a.storage, fma(load(x + j, k), rate, load(a.parameter + j, k) * decay), j,
                              k);
    });
  }

 private:
  /// X = (a I + b A + c A A) X with A = X X^T, in the orientation where A is small; the result is in `x`.
  template <class T>
  static void orthogonalize(exec::host_context& ctx, muon_update_args<T> const& u, float*& x, float*& other) {
    using namespace simd;
    bool const tall = u.rows > u.cols;
    index_t const side = tall ? u.cols : u.rows;
    auto const wide = [&](float* p) {
      return tall ? transposed(matrix(p, u.rows, u.cols)) : matrix(p, u.rows, u.cols);
    };
    auto const gram = ctx.scratch().allocate_matrix<float>(side, side);
    auto const polynomial = ctx.scratch().allocate_matrix<float>(side, side);
    using multiply = gemm_args<float, float, float>;
    for (int i = 0; i < u.iterations; ++i) {
      gemm(ctx, multiply{.c = gram, .a = wide(x), .b = transposed(as_const(wide(x)))});
      gemm(ctx, multiply{.c = polynomial, .a = gram, .b = gram});
      ctx.pool().for_range(side, detail::piece_rows(side), [&](index_t begin, index_t end) {
        for (index_t r = begin; r < end; ++r) {
          float* const p = detail::row(polynomial, r);
          float const* const q = detail::row(gram, r);
          detail::for_lanes(0, side, [&](index_t j, int n) TENON_INLINE_LAMBDA {
            store(p + j, fma(load(p + j, n), broadcast(2.0315f), load(q + j, n) * broadcast(-4.7750f)), n);
          });
          p[r] = p[r] + 3.4445f;
        }
      });
      gemm(ctx, multiply{.c = wide(other), .a = polynomial, .b = wide(x)});
      std::swap(x, other);
    }
  }
};

}  // namespace tenon::ops
