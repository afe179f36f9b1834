// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Elementary functions on sixteen lanes: fixed polynomials of fused multiply-adds, the same bits on every
/// instruction set, compiler and flag. Each has an overload for one float that goes through the same lanes.
///
/// Errors are in units in the last place of the exact value's float; they are verified by a sweep.
/// Coefficients: weighted minimax fits (Lawson iteration at 160 bits), rounded to float one after another.
/// @source Muller, "Elementary Functions", 3rd ed., ch. 3 and 11 (Cody-Waite reduction with fma)
/// @test tests/exec/math_test.cpp, tests/contract/bits_hash.cpp
#include <cstring>
#include <limits>

#include <tenon/exec/host/simd.hpp>

namespace tenon::simd {
namespace detail {

/// c0 + c1 x + c2 x^2 + ... by Horner's rule, one fma a step.
template <class... C>
TENON_ALWAYS_INLINE f32x16 polynomial(f32x16 x, float c0, C... more) {
  if constexpr (sizeof...(C) == 0) return broadcast(c0);
  else return fma(polynomial(x, more...), x, broadcast(c0));
}
/// Adding this rounds a float of magnitude below 2^22 to an integer, which the sum's low bits then hold.
inline constexpr float integer_shift = 0x1.8p+23f;
inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// The lane's bit 0 spread over all 32 bits.
TENON_ALWAYS_INLINE i32x16 odd(i32x16 a) { return broadcast_int(0) - (a & broadcast_int(1)); }
/// `set` where the bits of `m` are ones, `clear` where they are zeros.
TENON_ALWAYS_INLINE f32x16 blend(i32x16 m, f32x16 set, f32x16 clear) {
  return from_bits(bits(clear) ^ ((bits(set) ^ bits(clear)) & m));
}

/// x = quadrant pi/2 + r for a float beyond the range of the short reduction: integers times the bits of 2/pi.
/// @source Payne and Hanek 1983, "Radian reduction for trigonometric functions", SIGNUM Newsletter 18
inline float reduce_angle(float x, std::int32_t& quadrant) {
  // After a zero word, the first 224 bits of 2/pi.
  constexpr std::uint32_t two_over_pi[] = {0,           0xa2f9836eu, 0x4e441529u, 0xfc2757d1u,
                                           0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu};
  std::uint32_t const b = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  quadrant = 0;
  if (b >= 0x7f800000u) return std::numeric_limits<float>::quiet_NaN();
  std::uint64_t const mantissa = (b & 0x7fffffu) | 0x800000u;
  // Bits of weight 4 and more only add whole turns. The window of 96 bits below begins with weight 2.
  std::uint32_t const position = (b >> 23) - 150 + 30, first = position / 32, shift = position % 32;
  auto window = [&](std::uint32_t k) -> std::uint64_t {
    std::uint64_t const two = (std::uint64_t(two_over_pi[first + k]) << 32) | two_over_pi[first + k + 1];
    return (two >> (32 - shift)) & 0xffffffffu;
  };
  std::uint64_t const low = mantissa * window(2), middle = mantissa * window(1) + (low >> 32);
  std::uint64_t const high = ((mantissa * window(0)) << 32) + middle;
  std::uint64_t const fraction = (high << 2) | ((low >> 30) & 3u);
  quadrant = std::int32_t((high >> 62) + (fraction >> 63));
  float const r = float(double(std::int64_t(fraction)) * 0x1.921fb54442d18p-64);
  if (x >= 0) return r;
  quadrant = -quadrant;
  return -r;
}
/// Replaces the lanes beyond 2^18. @param quadrant only the last two bits count
TENON_NOINLINE inline void reduce_far_angles(float const* x, float* r, std::int32_t* quadrant) {
  for (int i = 0; i < lanes; ++i)
    if (!(x[i] <= 0x1p18f && x[i] >= -0x1p18f)) r[i] = reduce_angle(x[i], quadrant[i]);
}

}  // namespace detail

/// e^x, within 1 ulp. Results below 2^-126 are +0 (exp(-inf) = 0), above the largest float +inf; NaN passes.
TENON_ALWAYS_INLINE f32x16 exp(f32x16 x) {
  f32x16 const shifted = fma(x, broadcast(0x1.715476p+0f), broadcast(detail::integer_shift));
  f32x16 const n = shifted - broadcast(detail::integer_shift);
  f32x16 const r = fma(n, broadcast(0x1.05c610p-29f), fma(n, broadcast(-0x1.62e430p-1f), x));
  f32x16 const p = detail::polynomial(r, 1.0f, 1.0f, 0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.55589ep-5f, 0x1.123ac8p-7f,
                                      0x1.6a628ep-10f);
  // n goes straight into the exponent: p < 1 where n = 128, so that every finite result is reached in one step.
  f32x16 const y = from_bits(bits(p) + shift_left<23>(bits(shifted)));
  f32x16 const above = select(x <= broadcast(0x1.62e42ep+6f), y, x + broadcast(detail::infinity));
  return select(x < broadcast(-0x1.5d589ep+6f), zeros(), above);
}

/// Natural logarithm, within 1 ulp, denormals included. log(0) = -inf, log(+inf) = +inf, NaN for x < 0 and for NaN.
TENON_ALWAYS_INLINE f32x16 log(f32x16 x) {
  mask16 const small = x < broadcast(0x1p-126f);
  f32x16 const scaled = select(small, x * broadcast(0x1p23f), x);
  // scaled = m 2^e with m in [2/3, 4/3)
  i32x16 const offset = broadcast_int(0x3f800000 - 0x3f2aaaab);
  i32x16 const exponent = shift_right<23>(bits(scaled) + offset) - broadcast_int(127);
  f32x16 const f = from_bits(bits(scaled) - shift_left<23>(exponent)) - broadcast(1.0f);
  f32x16 const e = to_float(exponent) - select(small, broadcast(23.0f), zeros());
  f32x16 const p = detail::polynomial(f, -0.5f, 0x1.555504p-2f, -0x1.ffff00p-3f, 0x1.99d116p-3f, -0x1.559b3cp-3f,
                                      0x1.1eca1cp-3f, -0x1.f35462p-4f, 0x1.1e9f54p-3f, -0x1.0779dap-3f);
  f32x16 const y = fma(e, broadcast(0x1.62e430p-1f), fma(e, broadcast(-0x1.05c610p-29f), fma(p, f * f, f)));
  f32x16 const finite = select(x < broadcast(detail::infinity), y, x);  // +inf and NaN pass
  f32x16 const positive = select(x <= zeros(), broadcast(-detail::infinity), finite);
  return select(x < zeros(), broadcast(std::numeric_limits<float>::quiet_NaN()), positive);
}

/// 1 / (1 + e^-x), within 2.5 ulp. Results below 2^-126 are 0.
TENON_ALWAYS_INLINE f32x16 sigmoid(f32x16 x) {
  f32x16 const t = exp(negate(abs(x)));
  return select(x < zeros(), t, broadcast(1.0f)) / (broadcast(1.0f) + t);
}

/// Hyperbolic tangent, within 2 ulp; odd to the bit.
TENON_ALWAYS_INLINE f32x16 tanh(f32x16 x) {
  f32x16 const a = abs(x), s = x * x;
  f32x16 const p =
      detail::polynomial(s, -0x1.55554ap-2f, 0x1.110cfcp-3f, -0x1.b9226ap-5f, 0x1.590ff0p-6f, -0x1.9a45b4p-8f);
  f32x16 const near_zero = fma(p * s, a, a);
  f32x16 const far = broadcast(1.0f) - broadcast(2.0f) / (exp(a + a) + broadcast(1.0f));
  return with_sign_of(select(a < broadcast(0.55f), near_zero, far), x);
}

/// Error function, within 1.1 ulp; odd to the bit.
TENON_ALWAYS_INLINE f32x16 erf(f32x16 x) {
  f32x16 const a = abs(x), s = x * x;
  f32x16 const p = detail::polynomial(s, 0x1.06eba8p-3f, -0x1.812740p-2f, 0x1.ce2d64p-4f, -0x1.b8011cp-6f,
                                      0x1.544a42p-8f, -0x1.a60c2cp-11f, 0x1.4f6f8ap-14f);
  f32x16 const near_zero = fma(p, x, x);
  // erf(a) = 1 - exp(-(a + a q(a))); it rounds to 1 from 3.92 on. `a` first, so that NaN passes.
  f32x16 const t = min(a, broadcast(4.0f));
  f32x16 const q = detail::polynomial(t, 0x1.0778e4p-3f, 0x1.453286p-1f, 0x1.b325d0p-4f, -0x1.855282p-6f,
                                      0x1.dd70c8p-9f, -0x1.52835ep-12f, 0x1.78f132p-17f);
  f32x16 const far = broadcast(1.0f) - exp(negate(fma(q, t, t)));
  return select(a < broadcast(0.93f), near_zero, with_sign_of(far, x));
}

/// Sine and cosine at once, each within 2 ulp, for every finite angle; NaN for NaN and infinities. Angles beyond 2^18
/// take a slow path.
TENON_ALWAYS_INLINE void sincos(f32x16 x, f32x16& sine, f32x16& cosine) {
  f32x16 const shifted = fma(x, broadcast(0x1.45f306p-1f), broadcast(detail::integer_shift));
  f32x16 const n = shifted - broadcast(detail::integer_shift);
  // x - n pi/2 with pi/2 in three truncated parts; the first step is exact.
  f32x16 const first = fma(n, broadcast(-0x1.921fb4p+0f), x);
  f32x16 const second = fma(n, broadcast(-0x1.4442d0p-24f), first);
  f32x16 r = fma(n, broadcast(-0x1.84698ap-48f), second);
  i32x16 quadrant = bits(shifted);
  if (any(broadcast(0x1p18f) < abs(x))) [[unlikely]] {  // NaN lanes are NaN already
    float all_x[lanes], all_r[lanes], all_quadrants[lanes];
    std::int32_t q[lanes];
    store(all_x, x);
    store(all_r, r);
    store(all_quadrants, from_bits(quadrant));
    std::memcpy(q, all_quadrants, sizeof q);
    detail::reduce_far_angles(all_x, all_r, q);
    r = load(all_r);
    quadrant = load_int(q);
  }
  f32x16 const s = r * r;
  f32x16 const ps = detail::polynomial(s, -0x1.555542p-3f, 0x1.1105fap-7f, -0x1.98d742p-13f);
  f32x16 const pc = detail::polynomial(s, -0.5f, 0x1.555548p-5f, -0x1.6c0aecp-10f, 0x1.998d66p-16f);
  f32x16 const sine_r = fma(ps * s, r, r), cosine_r = fma(pc, s, broadcast(1.0f));
  i32x16 const swap = detail::odd(quadrant), two = broadcast_int(2);
  i32x16 const sine_sign = shift_left<30>(quadrant & two);
  i32x16 const cosine_sign = shift_left<30>((quadrant + broadcast_int(1)) & two);
  sine = from_bits(bits(detail::blend(swap, cosine_r, sine_r)) ^ sine_sign);
  cosine = from_bits(bits(detail::blend(swap, sine_r, cosine_r)) ^ cosine_sign);
}
/// As `sincos`.
TENON_ALWAYS_INLINE f32x16 sin(f32x16 x) {
  f32x16 s, c;
  sincos(x, s, c);
  return s;
}
/// As `sincos`.
TENON_ALWAYS_INLINE f32x16 cos(f32x16 x) {
  f32x16 s, c;
  sincos(x, s, c);
  return c;
}

namespace detail {
template <class Function>
TENON_ALWAYS_INLINE float one(float x, Function function) {
  float t[lanes];
  store(t, function(broadcast(x)));
  return t[0];
}
}  // namespace detail
// One float through the same lanes, hence the same bits as in a vector.
inline float exp(float x) {
  return detail::one(x, [](f32x16 v) { return exp(v); });
}
inline float log(float x) {
  return detail::one(x, [](f32x16 v) { return log(v); });
}
inline float sigmoid(float x) {
  return detail::one(x, [](f32x16 v) { return sigmoid(v); });
}
inline float tanh(float x) {
  return detail::one(x, [](f32x16 v) { return tanh(v); });
}
inline float erf(float x) {
  return detail::one(x, [](f32x16 v) { return erf(v); });
}
inline float sin(float x) {
  return detail::one(x, [](f32x16 v) { return sin(v); });
}
inline float cos(float x) {
  return detail::one(x, [](f32x16 v) { return cos(v); });
}

}  // namespace tenon::simd
