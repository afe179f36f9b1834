// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Eight doubles at a time, for sums of squares; one IEEE operation a lane on every instruction set.
#include <tenon/exec/host/simd.hpp>

namespace tenon::ops::detail {

#if TENON_SIMD_AVX512()

struct f64x8 {
  __m512d v;
};
TENON_ALWAYS_INLINE f64x8 broadcast_double(double x) { return {_mm512_set1_pd(x)}; }
TENON_ALWAYS_INLINE f64x8 load_doubles(double const* p) { return {_mm512_loadu_pd(p)}; }
TENON_ALWAYS_INLINE void store_doubles(double* p, f64x8 a) { _mm512_storeu_pd(p, a.v); }
TENON_ALWAYS_INLINE f64x8 operator+(f64x8 a, f64x8 b) { return {_mm512_add_pd(a.v, b.v)}; }
TENON_ALWAYS_INLINE f64x8 operator-(f64x8 a, f64x8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
/// a < b ? b : a
TENON_ALWAYS_INLINE f64x8 larger(f64x8 a, f64x8 b) {
  return {_mm512_mask_blend_pd(_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ), a.v, b.v)};
}
TENON_ALWAYS_INLINE f64x8 absolute(f64x8 a) {
  return {_mm512_castsi512_pd(_mm512_and_si512(_mm512_castpd_si512(a.v), _mm512_set1_epi64(0x7fffffffffffffff)))};
}

/// The sums of squares of eight groups of sixteen floats at p, each by the tree of lanes (8, 4, 2, 1 apart). The eight
/// results come in no particular order. Squares of floats are exact in double, so a fused addition rounds the same.
TENON_ALWAYS_INLINE f64x8 squares_of_groups(float const* p) {
  auto const eight = [&](int group) {
    __m512d const a = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p + lanes * group)),
                  b = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p + lanes * group + 8));
    return _mm512_fmadd_pd(a, a, _mm512_mul_pd(b, b));
  };
  auto const four = [&](int group) {
    __m512d const a = eight(group), b = eight(group + 1);
    return _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xff, a, b, 0x44), _mm512_maskz_shuffle_f64x2(0xff, a, b, 0xee));
  };
  auto const two = [&](int group) {
    __m512d const a = four(group), b = four(group + 2);
    return _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xff, a, b, 0x88), _mm512_maskz_shuffle_f64x2(0xff, a, b, 0xdd));
  };
  __m512d const a = two(0), b = two(4);
  return {_mm512_add_pd(_mm512_maskz_unpacklo_pd(0xff, a, b), _mm512_maskz_unpackhi_pd(0xff, a, b))};
}

#elif TENON_SIMD_AVX2()

struct f64x8 {
  __m256d lo, hi;
};
TENON_ALWAYS_INLINE f64x8 broadcast_double(double x) {
  __m256d const v = _mm256_set1_pd(x);
  return {v, v};
}
TENON_ALWAYS_INLINE f64x8 load_doubles(double const* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
TENON_ALWAYS_INLINE void store_doubles(double* p, f64x8 a) {
  _mm256_storeu_pd(p, a.lo);
  _mm256_storeu_pd(p + 4, a.hi);
}
TENON_ALWAYS_INLINE f64x8 operator+(f64x8 a, f64x8 b) { return {_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)}; }
TENON_ALWAYS_INLINE f64x8 operator-(f64x8 a, f64x8 b) { return {_mm256_sub_pd(a.lo, b.lo), _mm256_sub_pd(a.hi, b.hi)}; }
TENON_ALWAYS_INLINE f64x8 larger(f64x8 a, f64x8 b) {
  return {_mm256_blendv_pd(a.lo, b.lo, _mm256_cmp_pd(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_pd(a.hi, b.hi, _mm256_cmp_pd(a.hi, b.hi, _CMP_LT_OQ))};
}
TENON_ALWAYS_INLINE f64x8 absolute(f64x8 a) {
  __m256d const sign = _mm256_set1_pd(-0.0);
  return {_mm256_andnot_pd(sign, a.lo), _mm256_andnot_pd(sign, a.hi)};
}
TENON_ALWAYS_INLINE f64x8 squares_of_groups(float const* p) {
  auto const square = [&](int group, int at) {
    __m256d const a = _mm256_cvtps_pd(_mm_loadu_ps(p + lanes * group + at)),
                  b = _mm256_cvtps_pd(_mm_loadu_ps(p + lanes * group + at + 8));
    return _mm256_fmadd_pd(a, a, _mm256_mul_pd(b, b));
  };
  auto const four = [&](int group) { return _mm256_add_pd(square(group, 0), square(group, 4)); };
  auto const two = [&](int group) {
    __m256d const a = four(group), b = four(group + 1);
    return _mm256_add_pd(_mm256_permute2f128_pd(a, b, 0x20), _mm256_permute2f128_pd(a, b, 0x31));
  };
  return {_mm256_hadd_pd(two(0), two(2)), _mm256_hadd_pd(two(4), two(6))};
}

#else

struct f64x8 {
  double v[8];
};
template <class Function>
TENON_ALWAYS_INLINE f64x8 each_double(Function f) {
  f64x8 r;
  for (int i = 0; i < 8; ++i) r.v[i] = f(i);
  return r;
}
TENON_ALWAYS_INLINE f64x8 broadcast_double(double x) {
  return each_double([&](int) { return x; });
}
TENON_ALWAYS_INLINE f64x8 load_doubles(double const* p) {
  return each_double([&](int i) { return p[i]; });
}
TENON_ALWAYS_INLINE void store_doubles(double* p, f64x8 a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
TENON_ALWAYS_INLINE f64x8 operator+(f64x8 a, f64x8 b) {
  return each_double([&](int i) { return a.v[i] + b.v[i]; });
}
TENON_ALWAYS_INLINE f64x8 operator-(f64x8 a, f64x8 b) {
  return each_double([&](int i) { return a.v[i] - b.v[i]; });
}
TENON_ALWAYS_INLINE f64x8 larger(f64x8 a, f64x8 b) {
  return each_double([&](int i) { return a.v[i] < b.v[i] ? b.v[i] : a.v[i]; });
}
TENON_ALWAYS_INLINE f64x8 absolute(f64x8 a) {
  return each_double([&](int i) { return __builtin_fabs(a.v[i]); });
}
TENON_ALWAYS_INLINE f64x8 squares_of_groups(float const* p) {
  return each_double([&](int group) {
    float const* const x = p + lanes * group;
    double t[lanes / 2];
    for (int i = 0; i < lanes / 2; ++i) {
      double const a = double(x[i]), b = double(x[i + lanes / 2]);
      t[i] = a * a + b * b;
    }
    for (int half = lanes / 4; half; half /= 2)
      for (int i = 0; i < half; ++i) t[i] = t[i] + t[i + half];
    return t[0];
  });
}

#endif

}  // namespace tenon::ops::detail
