// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Sixteen fp32 lanes, whatever the register width: one zmm, two ymm, four NEON registers or an array of floats.
///
/// Every operation is one IEEE operation per lane, so a kernel written on `f32x16` gives the same bits on all of them.
/// A product that meets a sum is always written as `fma`; nothing is left for the compiler to contract.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <tenon/core/config.hpp>
#include <tenon/core/element.hpp>
#include <tenon/core/reduction_order.hpp>

#if TENON_SIMD_AVX512() || TENON_SIMD_AVX2()
#  include <immintrin.h>
#elif TENON_SIMD_NEON()
#  include <arm_neon.h>
#endif

namespace tenon::simd {

inline constexpr char const* instruction_set = TENON_SIMD_AVX512() ? "avx512"
                                               : TENON_SIMD_AVX2() ? "avx2"
                                               : TENON_SIMD_NEON() ? "neon"
                                                                   : "scalar";

#if TENON_SIMD_AVX512()

// The maskz forms below stand for the plain ones, whose undefined pass-through operand makes g++ 12 warn.
namespace detail {
inline constexpr __mmask16 all_lanes = 0xffff;
}
struct i32x16 {
  __m512i v;
};
struct mask16 {
  __mmask16 v;
};
struct f32x16 {
  __m512 v;
};

TENON_ALWAYS_INLINE f32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
TENON_ALWAYS_INLINE f32x16 load(float const* p) { return {_mm512_loadu_ps(p)}; }
TENON_ALWAYS_INLINE void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
TENON_ALWAYS_INLINE f32x16 load(bf16 const* p) {
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(
      detail::all_lanes,
      _mm512_maskz_cvtepu16_epi32(detail::all_lanes, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p))), 16))};
}
TENON_ALWAYS_INLINE f32x16 load(fp16 const* p) {
  return {_mm512_maskz_cvtph_ps(detail::all_lanes, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p)))};
}
TENON_ALWAYS_INLINE f32x16 load(std::int8_t const* p) {
  return {_mm512_maskz_cvtepi32_ps(
      detail::all_lanes,
      _mm512_maskz_cvtepi8_epi32(detail::all_lanes, _mm_loadu_si128(reinterpret_cast<__m128i const*>(p))))};
}
TENON_ALWAYS_INLINE void store(fp16* p, f32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(detail::all_lanes, a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TENON_ALWAYS_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
TENON_ALWAYS_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
TENON_ALWAYS_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
TENON_ALWAYS_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
/// a * b + c, rounded once.
TENON_ALWAYS_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
TENON_ALWAYS_INLINE f32x16 sqrt(f32x16 a) { return {_mm512_maskz_sqrt_ps(detail::all_lanes, a.v)}; }
/// a < b ? b : a, lane by lane (the first operand's NaN is kept, the second one's is dropped).
TENON_ALWAYS_INLINE f32x16 max(f32x16 a, f32x16 b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_NLT_UQ), b.v, a.v)};
}
TENON_ALWAYS_INLINE f32x16 min(f32x16 a, f32x16 b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(b.v, a.v, _CMP_NLT_UQ), b.v, a.v)};
}
TENON_ALWAYS_INLINE mask16 operator<(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
TENON_ALWAYS_INLINE mask16 operator<=(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
TENON_ALWAYS_INLINE mask16 is_nan(f32x16 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
/// Is any lane set?
TENON_ALWAYS_INLINE bool any(mask16 m) { return m.v != 0; }
/// mask ? a : b
TENON_ALWAYS_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
/// Lanes 0 .. n-1 set.
TENON_ALWAYS_INLINE mask16 first_lanes(int n) { return {__mmask16(n >= 16 ? 0xffffu : (1u << n) - 1u)}; }
TENON_ALWAYS_INLINE f32x16 round(f32x16 a) {
  return {_mm512_maskz_roundscale_ps(detail::all_lanes, a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
TENON_ALWAYS_INLINE i32x16 to_int(f32x16 a) { return {_mm512_maskz_cvtps_epi32(detail::all_lanes, a.v)}; }
TENON_ALWAYS_INLINE f32x16 to_float(i32x16 a) { return {_mm512_maskz_cvtepi32_ps(detail::all_lanes, a.v)}; }
TENON_ALWAYS_INLINE i32x16 bits(f32x16 a) { return {_mm512_castps_si512(a.v)}; }
TENON_ALWAYS_INLINE f32x16 from_bits(i32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
TENON_ALWAYS_INLINE i32x16 broadcast_int(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
TENON_ALWAYS_INLINE i32x16 load_int(std::int32_t const* p) { return {_mm512_loadu_si512(p)}; }
TENON_ALWAYS_INLINE i32x16 operator+(i32x16 a, i32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
TENON_ALWAYS_INLINE i32x16 operator-(i32x16 a, i32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
TENON_ALWAYS_INLINE i32x16 operator&(i32x16 a, i32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
TENON_ALWAYS_INLINE i32x16 operator|(i32x16 a, i32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
TENON_ALWAYS_INLINE i32x16 operator^(i32x16 a, i32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int N>
TENON_ALWAYS_INLINE i32x16 shift_left(i32x16 a) {
  return {_mm512_maskz_slli_epi32(detail::all_lanes, a.v, N)};
}
template <int N>
TENON_ALWAYS_INLINE i32x16 shift_right(i32x16 a) {
  return {_mm512_maskz_srli_epi32(detail::all_lanes, a.v, N)};
}
/// Writes the low 16 bits of each lane.
TENON_ALWAYS_INLINE void store_low_halves(std::uint16_t* p, i32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(detail::all_lanes, a.v));
}
TENON_ALWAYS_INLINE i32x16 select(mask16 m, i32x16 a, i32x16 b) { return {_mm512_mask_blend_epi32(m.v, b.v, a.v)}; }
TENON_ALWAYS_INLINE void prefetch(void const* p) { _mm_prefetch(static_cast<char const*>(p), _MM_HINT_T0); }
/// As prefetch, for what comes after more than the first cache holds.
TENON_ALWAYS_INLINE void prefetch_far(void const* p) { _mm_prefetch(static_cast<char const*>(p), _MM_HINT_T1); }

#elif TENON_SIMD_AVX2()

struct i32x16 {
  __m256i lo, hi;
};
struct mask16 {
  __m256 lo, hi;
};
struct f32x16 {
  __m256 lo, hi;
};

TENON_ALWAYS_INLINE f32x16 broadcast(float x) {
  __m256 const v = _mm256_set1_ps(x);
  return {v, v};
}
TENON_ALWAYS_INLINE f32x16 load(float const* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
TENON_ALWAYS_INLINE void store(float* p, f32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
TENON_ALWAYS_INLINE f32x16 load(bf16 const* p) {
  auto widen = [](bf16 const* q) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(q))), 16));
  };
  return {widen(p), widen(p + 8)};
}
TENON_ALWAYS_INLINE f32x16 load(fp16 const* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p + 8)))};
}
TENON_ALWAYS_INLINE f32x16 load(std::int8_t const* p) {
  auto widen = [](std::int8_t const* q) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(q))));
  };
  return {widen(p), widen(p + 8)};
}
TENON_ALWAYS_INLINE void store(fp16* p, f32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                   _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TENON_ALWAYS_INLINE f32x16 operator+(f32x16 a, f32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE f32x16 operator-(f32x16 a, f32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE f32x16 operator*(f32x16 a, f32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE f32x16 operator/(f32x16 a, f32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
TENON_ALWAYS_INLINE f32x16 sqrt(f32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
TENON_ALWAYS_INLINE mask16 operator<(f32x16 a, f32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
TENON_ALWAYS_INLINE mask16 operator<=(f32x16 a, f32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)};
}
TENON_ALWAYS_INLINE mask16 is_nan(f32x16 a) {
  return {_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)};
}
TENON_ALWAYS_INLINE bool any(mask16 m) { return _mm256_movemask_ps(_mm256_or_ps(m.lo, m.hi)) != 0; }
TENON_ALWAYS_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
TENON_ALWAYS_INLINE f32x16 max(f32x16 a, f32x16 b) { return select(a < b, b, a); }
TENON_ALWAYS_INLINE f32x16 min(f32x16 a, f32x16 b) { return select(b < a, b, a); }
TENON_ALWAYS_INLINE mask16 first_lanes(int n) {
  __m256i const first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), count = _mm256_set1_epi32(n);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(count, first)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, _mm256_add_epi32(first, _mm256_set1_epi32(8))))};
}
TENON_ALWAYS_INLINE f32x16 round(f32x16 a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
TENON_ALWAYS_INLINE i32x16 to_int(f32x16 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
TENON_ALWAYS_INLINE f32x16 to_float(i32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
TENON_ALWAYS_INLINE i32x16 bits(f32x16 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
TENON_ALWAYS_INLINE f32x16 from_bits(i32x16 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
TENON_ALWAYS_INLINE i32x16 broadcast_int(std::int32_t x) {
  __m256i const v = _mm256_set1_epi32(x);
  return {v, v};
}
TENON_ALWAYS_INLINE i32x16 load_int(std::int32_t const* p) {
  return {_mm256_loadu_si256(reinterpret_cast<__m256i const*>(p)),
          _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p + 8))};
}
TENON_ALWAYS_INLINE i32x16 operator+(i32x16 a, i32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE i32x16 operator-(i32x16 a, i32x16 b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE i32x16 operator&(i32x16 a, i32x16 b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE i32x16 operator|(i32x16 a, i32x16 b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
TENON_ALWAYS_INLINE i32x16 operator^(i32x16 a, i32x16 b) {
  return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
template <int N>
TENON_ALWAYS_INLINE i32x16 shift_left(i32x16 a) {
  return {_mm256_slli_epi32(a.lo, N), _mm256_slli_epi32(a.hi, N)};
}
template <int N>
TENON_ALWAYS_INLINE i32x16 shift_right(i32x16 a) {
  return {_mm256_srli_epi32(a.lo, N), _mm256_srli_epi32(a.hi, N)};
}
TENON_ALWAYS_INLINE void store_low_halves(std::uint16_t* p, i32x16 a) {
  __m256i const low = _mm256_set1_epi32(0xffff);
  __m256i const packed = _mm256_packus_epi32(_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
TENON_ALWAYS_INLINE i32x16 select(mask16 m, i32x16 a, i32x16 b) {
  return {_mm256_blendv_epi8(b.lo, a.lo, _mm256_castps_si256(m.lo)),
          _mm256_blendv_epi8(b.hi, a.hi, _mm256_castps_si256(m.hi))};
}
TENON_ALWAYS_INLINE void prefetch(void const* p) { _mm_prefetch(static_cast<char const*>(p), _MM_HINT_T0); }
TENON_ALWAYS_INLINE void prefetch_far(void const* p) { _mm_prefetch(static_cast<char const*>(p), _MM_HINT_T1); }

#else  // NEON differs from portable code in registers and in fma only: compilers turn these loops into both.

struct i32x16 {
  std::int32_t v[16];
};
struct mask16 {
  bool v[16];
};
struct f32x16 {
  float v[16];
};

namespace detail {
template <class R, class F>
TENON_ALWAYS_INLINE R each(F f) {
  R r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}
}  // namespace detail
TENON_ALWAYS_INLINE f32x16 broadcast(float x) {
  return detail::each<f32x16>([&](int) { return x; });
}
TENON_ALWAYS_INLINE f32x16 load(float const* p) {
  return detail::each<f32x16>([&](int i) { return p[i]; });
}
TENON_ALWAYS_INLINE void store(float* p, f32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
TENON_ALWAYS_INLINE f32x16 load(bf16 const* p) {
  return detail::each<f32x16>([&](int i) { return float(p[i]); });
}
TENON_ALWAYS_INLINE f32x16 load(fp16 const* p) {
  return detail::each<f32x16>([&](int i) { return float(p[i]); });
}
TENON_ALWAYS_INLINE f32x16 load(std::int8_t const* p) {
  return detail::each<f32x16>([&](int i) { return float(p[i]); });
}
TENON_ALWAYS_INLINE void store(fp16* p, f32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = fp16(a.v[i]);
}
TENON_ALWAYS_INLINE f32x16 operator+(f32x16 a, f32x16 b) {
  return detail::each<f32x16>([&](int i) { return a.v[i] + b.v[i]; });
}
TENON_ALWAYS_INLINE f32x16 operator-(f32x16 a, f32x16 b) {
  return detail::each<f32x16>([&](int i) { return a.v[i] - b.v[i]; });
}
TENON_ALWAYS_INLINE f32x16 operator*(f32x16 a, f32x16 b) {
  return detail::each<f32x16>([&](int i) { return a.v[i] * b.v[i]; });
}
TENON_ALWAYS_INLINE f32x16 operator/(f32x16 a, f32x16 b) {
  return detail::each<f32x16>([&](int i) { return a.v[i] / b.v[i]; });
}
#  if TENON_SIMD_NEON()
TENON_ALWAYS_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  f32x16 r;
  for (int i = 0; i < 16; i += 4)
    vst1q_f32(r.v + i, vfmaq_f32(vld1q_f32(c.v + i), vld1q_f32(a.v + i), vld1q_f32(b.v + i)));
  return r;
}
#  else
TENON_ALWAYS_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return detail::each<f32x16>([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
#  endif
TENON_ALWAYS_INLINE f32x16 sqrt(f32x16 a) {
  return detail::each<f32x16>([&](int i) { return std::sqrt(a.v[i]); });
}
TENON_ALWAYS_INLINE mask16 operator<(f32x16 a, f32x16 b) {
  return detail::each<mask16>([&](int i) { return a.v[i] < b.v[i]; });
}
TENON_ALWAYS_INLINE mask16 operator<=(f32x16 a, f32x16 b) {
  return detail::each<mask16>([&](int i) { return a.v[i] <= b.v[i]; });
}
TENON_ALWAYS_INLINE mask16 is_nan(f32x16 a) {
  return detail::each<mask16>([&](int i) { return a.v[i] != a.v[i]; });
}
TENON_ALWAYS_INLINE bool any(mask16 m) {
  bool set = false;
  for (int i = 0; i < 16; ++i) set = set || m.v[i];
  return set;
}
TENON_ALWAYS_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  return detail::each<f32x16>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}
TENON_ALWAYS_INLINE f32x16 max(f32x16 a, f32x16 b) {
  return detail::each<f32x16>([&](int i) { return a.v[i] < b.v[i] ? b.v[i] : a.v[i]; });
}
TENON_ALWAYS_INLINE f32x16 min(f32x16 a, f32x16 b) {
  return detail::each<f32x16>([&](int i) { return b.v[i] < a.v[i] ? b.v[i] : a.v[i]; });
}
TENON_ALWAYS_INLINE mask16 first_lanes(int n) {
  return detail::each<mask16>([&](int i) { return i < n; });
}
TENON_ALWAYS_INLINE f32x16 round(f32x16 a) {
  return detail::each<f32x16>([&](int i) { return __builtin_nearbyintf(a.v[i]); });
}
/// Rounds to nearest; for lanes within the range of an int.
TENON_ALWAYS_INLINE i32x16 to_int(f32x16 a) {
  return detail::each<i32x16>([&](int i) { return std::int32_t(__builtin_nearbyintf(a.v[i])); });
}
TENON_ALWAYS_INLINE f32x16 to_float(i32x16 a) {
  return detail::each<f32x16>([&](int i) { return float(a.v[i]); });
}
TENON_ALWAYS_INLINE i32x16 bits(f32x16 a) { return std::bit_cast<i32x16>(a); }
TENON_ALWAYS_INLINE f32x16 from_bits(i32x16 a) { return std::bit_cast<f32x16>(a); }
TENON_ALWAYS_INLINE i32x16 broadcast_int(std::int32_t x) {
  return detail::each<i32x16>([&](int) { return x; });
}
TENON_ALWAYS_INLINE i32x16 load_int(std::int32_t const* p) {
  return detail::each<i32x16>([&](int i) { return p[i]; });
}
TENON_ALWAYS_INLINE i32x16 operator+(i32x16 a, i32x16 b) {
  return detail::each<i32x16>([&](int i) { return std::int32_t(std::uint32_t(a.v[i]) + std::uint32_t(b.v[i])); });
}
TENON_ALWAYS_INLINE i32x16 operator-(i32x16 a, i32x16 b) {
  return detail::each<i32x16>([&](int i) { return std::int32_t(std::uint32_t(a.v[i]) - std::uint32_t(b.v[i])); });
}
TENON_ALWAYS_INLINE i32x16 operator&(i32x16 a, i32x16 b) {
  return detail::each<i32x16>([&](int i) { return a.v[i] & b.v[i]; });
}
TENON_ALWAYS_INLINE i32x16 operator|(i32x16 a, i32x16 b) {
  return detail::each<i32x16>([&](int i) { return a.v[i] | b.v[i]; });
}
TENON_ALWAYS_INLINE i32x16 operator^(i32x16 a, i32x16 b) {
  return detail::each<i32x16>([&](int i) { return a.v[i] ^ b.v[i]; });
}
template <int N>
TENON_ALWAYS_INLINE i32x16 shift_left(i32x16 a) {
  return detail::each<i32x16>([&](int i) { return std::int32_t(std::uint32_t(a.v[i]) << N); });
}
template <int N>
TENON_ALWAYS_INLINE i32x16 shift_right(i32x16 a) {
  return detail::each<i32x16>([&](int i) { return std::int32_t(std::uint32_t(a.v[i]) >> N); });
}
TENON_ALWAYS_INLINE void store_low_halves(std::uint16_t* p, i32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = std::uint16_t(a.v[i]);
}
TENON_ALWAYS_INLINE i32x16 select(mask16 m, i32x16 a, i32x16 b) {
  return detail::each<i32x16>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}
TENON_ALWAYS_INLINE void prefetch(void const* p) { __builtin_prefetch(p); }
TENON_ALWAYS_INLINE void prefetch_far(void const* p) { __builtin_prefetch(p, 0, 2); }

#endif

/// Rounds to nearest even, as `bf16(float)`.
TENON_ALWAYS_INLINE void store(bf16* p, f32x16 a) {
  i32x16 const b = bits(a);
  i32x16 const rounded = shift_right<16>(b + broadcast_int(0x7fff) + (shift_right<16>(b) & broadcast_int(1)));
  i32x16 const quiet_nan = shift_right<16>(b) | broadcast_int(0x40);
  store_low_halves(reinterpret_cast<std::uint16_t*>(p), select(is_nan(a), quiet_nan, rounded));
}

template <class T>
  requires(std::same_as<T, fp8_e4m3> || std::same_as<T, fp8_e5m2>)
TENON_ALWAYS_INLINE f32x16 load(T const* p) {
  float t[lanes];
  for (int i = 0; i < lanes; ++i) t[i] = float(p[i]);
  return load(t);
}
template <class T>
  requires(std::same_as<T, fp8_e4m3> || std::same_as<T, fp8_e5m2>)
TENON_ALWAYS_INLINE void store(T* p, f32x16 a) {
  float t[lanes];
  store(t, a);
  for (int i = 0; i < lanes; ++i) p[i] = T(t[i]);
}

/// Sixteen values of any element type from memory; the first `n`, the rest `fill`, when `n` is given.
template <class T>
TENON_ALWAYS_INLINE f32x16 load(T const* p, int n, float fill = 0.0f) {
  if (n >= lanes) return load(p);
  float t[lanes];
  for (int i = 0; i < lanes; ++i) t[i] = i < n ? float(p[i]) : fill;
  return load(t);
}
/// Writes the first `n` lanes only.
template <class T>
TENON_ALWAYS_INLINE void store(T* p, f32x16 a, int n) {
  if (n >= lanes) return store(p, a);
  T t[lanes];
  store(t, a);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
/// Named in the plural because `tenon::zero` is a policy.
TENON_ALWAYS_INLINE f32x16 zeros() { return broadcast(0.0f); }
TENON_ALWAYS_INLINE f32x16 negate(f32x16 a) { return from_bits(bits(a) ^ broadcast_int(std::int32_t(0x80000000u))); }
TENON_ALWAYS_INLINE f32x16 abs(f32x16 a) { return from_bits(bits(a) & broadcast_int(0x7fffffff)); }
/// a with the sign of b (a must not be negative).
TENON_ALWAYS_INLINE f32x16 with_sign_of(f32x16 a, f32x16 b) {
  return from_bits(bits(a) | (bits(b) & broadcast_int(std::int32_t(0x80000000u))));
}

namespace detail {
/// The lanes combined in the fixed tree: lanes 8 apart, then 4, 2, 1.
#if TENON_SIMD_AVX512() || TENON_SIMD_AVX2()
template <class Eight, class Four>
TENON_ALWAYS_INLINE float reduce(f32x16 a, Eight combine8, Four combine4) {
#  if TENON_SIMD_AVX512()
  __m256 const eight = combine8(_mm512_maskz_extractf32x8_ps(0xff, a.v, 0), _mm512_maskz_extractf32x8_ps(0xff, a.v, 1));
#  else
  __m256 const eight = combine8(a.lo, a.hi);
#  endif
  __m128 const four = combine4(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 const two = combine4(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(combine4(two, _mm_movehdup_ps(two)));
}
TENON_ALWAYS_INLINE float reduce_sum(f32x16 a) {
  return reduce(
      a, [](__m256 x, __m256 y) { return _mm256_add_ps(x, y); }, [](__m128 x, __m128 y) { return _mm_add_ps(x, y); });
}
TENON_ALWAYS_INLINE float reduce_largest(f32x16 a) {  // maxps(y, x) is x < y ? y : x
  return reduce(
      a, [](__m256 x, __m256 y) { return _mm256_max_ps(y, x); }, [](__m128 x, __m128 y) { return _mm_max_ps(y, x); });
}
#else
template <class Combine>
TENON_ALWAYS_INLINE float reduce(f32x16 a, Combine combine) {
  for (int half = lanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = combine(a.v[i], a.v[i + half]);
  return a.v[0];
}
TENON_ALWAYS_INLINE float reduce_sum(f32x16 a) {
  return reduce(a, [](float x, float y) { return x + y; });
}
TENON_ALWAYS_INLINE float reduce_largest(f32x16 a) {
  return reduce(a, [](float x, float y) { return x < y ? y : x; });
}
#endif
}  // namespace detail
/// The sum of sixteen lanes in the fixed tree: lanes 8 apart, then 4, 2, 1.
TENON_ALWAYS_INLINE float reduce_add(f32x16 a) { return detail::reduce_sum(a); }
TENON_ALWAYS_INLINE float reduce_max(f32x16 a) { return detail::reduce_largest(a); }

}  // namespace tenon::simd
