// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include <tenon/exec/host/math.hpp>
#include <tenon/ops/host/rows.hpp>
#include <tenon/ops/rope.hpp>

namespace tenon::ops {
namespace detail {

/// Natural logarithm of a positive normal double, by the series of atanh: additions, divisions and fma only, so the
/// value does not depend on a mathematical library. Error below 1e-15 relative for |log| > 1e-3.
inline double fixed_log(double x) {
  std::uint64_t const bits = std::bit_cast<std::uint64_t>(x);
  int const exponent = int(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);  // [1, 2)
  double e = exponent;
  if (m > 1.4142135623730951) m *= 0.5, e += 1;
  double const s = (m - 1) / (m + 1), square = s * s;
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = std::fma(sum, square, 1.0 / k);
  return std::fma(e, 0.6931471805599453, 2 * s * sum);
}
/// exp of a double in [-700, 700], by a Taylor series; as `fixed_log` independent of any library.
inline double fixed_exp(double x) {
  double const n = std::nearbyint(x * 1.4426950408889634);
  double const r = std::fma(n, -2.3190468138462996e-17, std::fma(n, -0.6931471805599453, x));
  double sum = 1;
  for (int k = 16; k >= 1; --k) sum = std::fma(sum, r / k, 1.0);
  return sum * std::bit_cast<double>(std::uint64_t(int(n) + 1023) << 52);  // 2^n, a normal number
}
/// position * frequency within [-pi, pi], rounded to float once.
inline float reduced_angle(double position, double frequency) {
  double const angle = position * frequency, turns = std::nearbyint(angle * 0.15915494309189535);
  return float(std::fma(turns, -2.4492935982947064e-16, std::fma(turns, -6.283185307179586, angle)));
}

/// Turns `n` <= 16 pairs whose members are `apart` elements apart.
template <class T>
TENON_ALWAYS_INLINE void turn_halves(T* x, index_t apart, simd::f32x16 cos, simd::f32x16 sin, int n) {
  auto const a = simd::load(x, n), b = simd::load(x + apart, n);
  simd::store(x, simd::fma(a, cos, simd::negate(b * sin)), n);
  simd::store(x + apart, simd::fma(b, cos, a * sin), n);
}
template <class T>
TENON_ALWAYS_INLINE void turn_neighbours(T* x, simd::f32x16 cos, simd::f32x16 sin, int n) {
  float a[lanes] = {}, b[lanes] = {}, first[lanes], second[lanes];
  for (int i = 0; i < n; ++i) a[i] = float(x[2 * i]), b[i] = float(x[2 * i + 1]);
  auto const va = simd::load(a), vb = simd::load(b);
  simd::store(first, simd::fma(va, cos, simd::negate(vb * sin)));
  simd::store(second, simd::fma(vb, cos, va * sin));
  for (int i = 0; i < n; ++i) x[2 * i] = T(first[i]), x[2 * i + 1] = T(second[i]);
}

}  // namespace detail

template <>
struct kernel_for<rope_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, rope_args<T> const& a) {
    index_t const tokens = a.x.extent(0), pairs = a.rotary_width / 2;
    detail::require(detail::same_shape(a.x, index_t(a.positions.size()), index_t(a.heads) * a.width),
                    "tenon::ops::rope: x is not [positions, heads * width]. Fix: one position per row, dense columns.");
    detail::require(a.rotary_width % 2 == 0 && a.rotary_width <= a.width && a.base > 0,
                    "tenon::ops::rope: rotary_width is odd or larger than width, or base is not positive. Fix: an even "
                    "width and a base such as 10000.");
    detail::require(
        a.factors.empty() || index_t(a.factors.size()) == pairs,
        "tenon::ops::rope: there are not as many factors as pairs. Fix: rotary_width / 2 of them, or none.");
    arena_scope scope(ctx.scratch());
    double* const frequency = ctx.scratch().allocate<double>(pairs);
    double const log_base = detail::fixed_log(double(a.base));
    for (index_t i = 0; i < pairs; ++i)
      frequency[i] = detail::fixed_exp(-log_base * (double(2 * i) / double(a.rotary_width)));
    for (index_t i = 0; i < index_t(a.factors.size()); ++i) frequency[i] /= double(a.factors[std::size_t(i)]);
    ctx.pool().for_range(tokens, detail::piece_rows(index_t(a.heads) * a.width), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) turn_row(a, t, frequency, pairs);
    });
  }

 private:
  template <class T>
  static void turn_row(rope_args<T> const& a, index_t t, double const* frequency, index_t pairs) {
    T* const x = detail::row(a.x, t);
    double const position = double(a.positions[std::size_t(t)]);
    detail::for_lanes(0, pairs, [&](index_t i, int n) {
      float angle[lanes] = {};
      for (int j = 0; j < n; ++j) angle[j] = detail::reduced_angle(position, frequency[i + j]);
      auto const v = simd::load(angle), cos = simd::cos(v), sin = a.inverse ? simd::negate(simd::sin(v)) : simd::sin(v);
      for (int h = 0; h < a.heads; ++h) {
        T* const head = x + index_t(h) * a.width;
        if (a.pairing == rope_pairing::half) detail::turn_halves(head + i, pairs, cos, sin, n);
        else detail::turn_neighbours(head + 2 * i, cos, sin, n);
      }
    });
  }
};

}  // namespace tenon::ops
