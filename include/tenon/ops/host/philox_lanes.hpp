// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Many Philox counters at once, one in each 64-bit lane: a product of 32-bit words fills its lane, and the upper
/// half of a lane is never read.
#include <cstdint>

#include <tenon/core/config.hpp>
#include <tenon/core/philox.hpp>

#if TENON_SIMD_AVX512() || TENON_SIMD_AVX2()
#  include <immintrin.h>
#endif

namespace tenon::ops::detail {

#if TENON_SIMD_AVX512()

struct u64_lanes {
  __m512i v;
  static constexpr int count = 8;
  static u64_lanes broadcast(std::uint32_t x) { return {_mm512_set1_epi64(x)}; }
  /// first, first + 4, first + 1, first + 5, ...: so that `store_quads` finds neighbours in place.
  static u64_lanes interleaved(std::uint64_t first) {
    return {_mm512_add_epi64(_mm512_set1_epi64(std::int64_t(first)), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7))};
  }
};
TENON_ALWAYS_INLINE u64_lanes operator^(u64_lanes a, u64_lanes b) { return {_mm512_xor_si512(a.v, b.v)}; }
TENON_ALWAYS_INLINE u64_lanes product(u64_lanes a, u64_lanes b) { return {_mm512_maskz_mul_epu32(0xff, a.v, b.v)}; }
TENON_ALWAYS_INLINE u64_lanes upper(u64_lanes a) { return {_mm512_maskz_srli_epi64(0xff, a.v, 32)}; }
/// The low words of the lanes of a, b, c, d, quad after quad.
TENON_ALWAYS_INLINE void store_quads(std::uint32_t* p, u64_lanes a, u64_lanes b, u64_lanes c, u64_lanes d) {
  auto const pairs = [](u64_lanes low, u64_lanes high) {
    return _mm512_mask_blend_epi32(0xaaaa, low.v, _mm512_maskz_slli_epi64(0xff, high.v, 32));
  };
  __m512i const ab = pairs(a, b), cd = pairs(c, d);
  _mm512_storeu_si512(p, _mm512_maskz_unpacklo_epi64(0xff, ab, cd));
  _mm512_storeu_si512(p + 16, _mm512_maskz_unpackhi_epi64(0xff, ab, cd));
}

#elif TENON_SIMD_AVX2()

struct u64_lanes {
  __m256i v;
  static constexpr int count = 4;
  static u64_lanes broadcast(std::uint32_t x) { return {_mm256_set1_epi64x(x)}; }
  static u64_lanes interleaved(std::uint64_t first) {
    return {_mm256_add_epi64(_mm256_set1_epi64x(std::int64_t(first)), _mm256_setr_epi64x(0, 2, 1, 3))};
  }
};
TENON_ALWAYS_INLINE u64_lanes operator^(u64_lanes a, u64_lanes b) { return {_mm256_xor_si256(a.v, b.v)}; }
TENON_ALWAYS_INLINE u64_lanes product(u64_lanes a, u64_lanes b) { return {_mm256_mul_epu32(a.v, b.v)}; }
TENON_ALWAYS_INLINE u64_lanes upper(u64_lanes a) { return {_mm256_srli_epi64(a.v, 32)}; }
TENON_ALWAYS_INLINE void store_quads(std::uint32_t* p, u64_lanes a, u64_lanes b, u64_lanes c, u64_lanes d) {
  auto const pairs = [](u64_lanes low, u64_lanes high) {
    return _mm256_blend_epi32(low.v, _mm256_slli_epi64(high.v, 32), 0xaa);
  };
  __m256i const ab = pairs(a, b), cd = pairs(c, d);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_unpacklo_epi64(ab, cd));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), _mm256_unpackhi_epi64(ab, cd));
}

#else

struct u64_lanes {
  std::uint64_t v;
  static constexpr int count = 1;
  static u64_lanes broadcast(std::uint32_t x) { return {x}; }
  static u64_lanes interleaved(std::uint64_t first) { return {first}; }
};
TENON_ALWAYS_INLINE u64_lanes operator^(u64_lanes a, u64_lanes b) { return {a.v ^ b.v}; }
TENON_ALWAYS_INLINE u64_lanes product(u64_lanes a, u64_lanes b) { return {(a.v & 0xffffffffu) * b.v}; }
TENON_ALWAYS_INLINE u64_lanes upper(u64_lanes a) { return {a.v >> 32}; }
TENON_ALWAYS_INLINE void store_quads(std::uint32_t* p, u64_lanes a, u64_lanes b, u64_lanes c, u64_lanes d) {
  p[0] = std::uint32_t(a.v), p[1] = std::uint32_t(b.v), p[2] = std::uint32_t(c.v), p[3] = std::uint32_t(d.v);
}

#endif

/// words [4 count] = stream.quad(sample, first), stream.quad(sample, first + 1), ...; `count` a multiple of 8.
inline void random_quads(random_stream const& stream, std::uint64_t sample, std::uint64_t first, int count,
                         std::uint32_t* words) {
  using v = u64_lanes;
  v const m0 = v::broadcast(0xD2511F53u), m1 = v::broadcast(0xCD9E8D57u);
  auto const same = stream.counter(sample, 0);
  for (int i = 0; i < count; i += v::count) {
    v const index = v::interleaved(first + std::uint64_t(i));
    v a = index, b = v::broadcast(same[1]), c = v::broadcast(same[2]), d = upper(index) ^ v::broadcast(same[3]);
    auto key = stream.key_words();
    for (int round = 0; round < 10; ++round) {
      v const p0 = product(a, m0), p1 = product(c, m1);
      a = upper(p1) ^ b ^ v::broadcast(key[0]), c = upper(p0) ^ d ^ v::broadcast(key[1]);
      b = p1, d = p0;
      key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
    }
    store_quads(words + 4 * i, a, b, c, d);
  }
}

}  // namespace tenon::ops::detail
