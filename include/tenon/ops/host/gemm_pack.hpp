// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Packing: a strip of an operand of any element type becomes fp32 in the order in which the kernel reads it.
#include <tenon/core/error.hpp>
#include <tenon/exec/host/simd.hpp>
#include <tenon/ops/host/gemm_blocking.hpp>
#include <tenon/ops/host/gemm_kernel.hpp>

namespace tenon::ops::detail {

/// One operand seen as strips: `strip` runs over rows of a or columns of b, `k` over the summed index.
template <class T>
struct gemm_operand {
  T const* data;
  index_t strip_extent, strip_stride, k_stride;
  T const* at(index_t strip, index_t k) const { return data + strip * strip_stride + k * k_stride; }
};

/// Sixteen rows of sixteen values become sixteen columns.
TENON_ALWAYS_INLINE void transpose_16x16(simd::f32x16 (&r)[16]) {
#if TENON_SIMD_AVX512()
  constexpr __mmask16 all = 0xffff;  // the forms without a mask make g++ warn of uninitialised values
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_maskz_unpacklo_ps(all, r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_maskz_unpackhi_ps(all, r[i].v, r[i + 1].v);
  }
  __m512 u[16];  // u[4 g + j]: column j of each 4 x 4 block of rows 4 g .. 4 g + 3
  for (int g = 0; g < 4; ++g) {
    u[4 * g + 0] = _mm512_shuffle_ps(t[4 * g], t[4 * g + 2], 0x44);
    u[4 * g + 1] = _mm512_shuffle_ps(t[4 * g], t[4 * g + 2], 0xee);
    u[4 * g + 2] = _mm512_shuffle_ps(t[4 * g + 1], t[4 * g + 3], 0x44);
    u[4 * g + 3] = _mm512_shuffle_ps(t[4 * g + 1], t[4 * g + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    __m512 const low01 = _mm512_maskz_shuffle_f32x4(all, u[j], u[4 + j], 0x88);
    __m512 const high01 = _mm512_maskz_shuffle_f32x4(all, u[j], u[4 + j], 0xdd);
    __m512 const low23 = _mm512_maskz_shuffle_f32x4(all, u[8 + j], u[12 + j], 0x88);
    __m512 const high23 = _mm512_maskz_shuffle_f32x4(all, u[8 + j], u[12 + j], 0xdd);
    r[j].v = _mm512_maskz_shuffle_f32x4(all, low01, low23, 0x88);
    r[8 + j].v = _mm512_maskz_shuffle_f32x4(all, low01, low23, 0xdd);
    r[4 + j].v = _mm512_maskz_shuffle_f32x4(all, high01, high23, 0x88);
    r[12 + j].v = _mm512_maskz_shuffle_f32x4(all, high01, high23, 0xdd);
  }
#else
  float t[16][16];
  for (int i = 0; i < 16; ++i) simd::store(t[i], r[i]);
  float s[16][16];
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) s[j][i] = t[i][j];
  for (int i = 0; i < 16; ++i) r[i] = simd::load(s[i]);
#endif
}

/// Values that packing may write past the end of a strip.
inline constexpr index_t gemm_pack_slack = lanes;

/// Neighbouring strips of `width` each: indices [first, first + strips * width) of an operand and k in [k0, k1) become
/// to[strip * strip_values + k * width + index]; indices past the operand's extent become +0.
struct gemm_strips {
  float* to;
  index_t strip_values;
  int strips, width;
  index_t first, k0, k1;
};

/// Strips whose k runs fastest in memory, sixteen rows at a time through a transpose.
template <class T>
void pack_along_k(gemm_strips const& p, gemm_operand<T> const& operand) {
  index_t const length = p.k1 - p.k0;
  for (int strip = 0; strip < p.strips; ++strip)
    for (int s = 0; s < p.width; s += lanes) {
      index_t const at = p.first + strip * p.width + s;
      int const rows = int(std::clamp<index_t>(operand.strip_extent - at, 0, std::min(lanes, p.width - s)));
      T const* const from = operand.at(at, p.k0);
      float* const to = p.to + strip * p.strip_values + s;
      for (index_t k = 0; k < length; k += lanes) {
        int const columns = int(std::min<index_t>(lanes, length - k));
        simd::f32x16 r[lanes];
        if (columns == lanes)
          for (int i = 0; i < lanes; ++i)
            r[i] = i < rows ? simd::load(from + i * operand.strip_stride + k) : simd::zeros();
        else
          for (int i = 0; i < lanes; ++i)
            r[i] = i < rows ? simd::load(from + i * operand.strip_stride + k, columns) : simd::zeros();
        transpose_16x16(r);
        for (int i = 0; i < columns; ++i) simd::store(to + (k + i) * p.width, r[i]);
      }
    }
}

/// Strips whose own index runs fastest in memory: a copy with a conversion.
template <class T>
void pack_across_k(gemm_strips const& p, gemm_operand<T> const& operand) {
  // Reading all sixteen lanes is safe up to here; lanes past a strip's width are overwritten by its next k.
  index_t const whole = operand.strip_extent - lanes;
  for (index_t k = p.k0; k < p.k1; ++k)
    for (int strip = 0; strip < p.strips; ++strip)
      for (int s = 0; s < p.width; s += lanes) {
        index_t const at = p.first + strip * p.width + s;
        T const* const from = operand.at(at, k);
        simd::f32x16 const x = at <= whole                   ? simd::load(from)
                               : at < operand.strip_extent ? simd::load(from, int(operand.strip_extent - at))
                                                             : simd::zeros();
        simd::store(p.to + strip * p.strip_values + (k - p.k0) * p.width + s, x);
      }
}

/// The memory that packing indices [first, last) and k in [k0, k1) will read.
template <class T>
gemm_prefetch prefetch_of(gemm_operand<T> const& operand, index_t first, index_t last, index_t k0, index_t k1) {
  bool const along_k = operand.k_stride == 1;
  index_t const runs = along_k ? last - first : k1 - k0, run_bytes = (along_k ? k1 - k0 : last - first) * index_t(sizeof(T));
  index_t const run_stride = (along_k ? operand.strip_stride : operand.k_stride) * index_t(sizeof(T));
  index_t const steps = ceil_div(run_bytes, gemm_prefetch::lines_bytes);
  return {reinterpret_cast<char const*>(operand.at(first, k0)), gemm_prefetch::lines_bytes,
          run_stride - steps * gemm_prefetch::lines_bytes, steps, steps, runs * steps};
}

template <class T>
void pack_strips(gemm_strips const& p, gemm_operand<T> const& operand) {
  if (operand.k_stride == 1) pack_along_k(p, operand);
  else pack_across_k(p, operand);
}

}  // namespace tenon::ops::detail
