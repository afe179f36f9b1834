// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Sixteen lanes of four bytes each, in the registers of `i32x16`: loads that turn rows into lanes, products of
/// bytes, tables. Everything is exact, so every instruction set gives the same.   @test tests/exec/simd_bytes_test.cpp
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <tenon/core/view.hpp>
#include <tenon/exec/host/simd.hpp>

namespace tenon::simd {

/// The same byte four times.
constexpr std::int32_t four_of(int byte) { return std::int32_t(std::uint32_t(byte & 0xff) * 0x01010101u); }
TENON_ALWAYS_INLINE i32x16 broadcast_bytes(int byte) { return broadcast_int(four_of(byte)); }

#if TENON_SIMD_AVX512()

/// Lane r of the i-th vector: bytes 4 i .. 4 i + 3 of row r. Rows of sixteen bytes begin `stride` bytes apart.
TENON_ALWAYS_INLINE std::array<i32x16, 4> load_turned(std::byte const* p, index_t stride) {
  auto const row = [&](int r) TENON_INLINE_LAMBDA {
    return _mm_loadu_si128(reinterpret_cast<__m128i const*>(p + r * stride));
  };
  auto const rows = [&](int r) TENON_INLINE_LAMBDA {  // r, r + 4, r + 8, r + 12
    __m512i v = _mm512_zextsi128_si512(row(r));
    v = _mm512_maskz_inserti32x4(detail::all_lanes, v, row(r + 4), 1);
    v = _mm512_maskz_inserti32x4(detail::all_lanes, v, row(r + 8), 2);
    return _mm512_maskz_inserti32x4(detail::all_lanes, v, row(r + 12), 3);
  };
  __m512i const a = rows(0), b = rows(1), c = rows(2), d = rows(3);
  __m512i const ab0 = _mm512_maskz_unpacklo_epi32(detail::all_lanes, a, b),
                ab1 = _mm512_maskz_unpackhi_epi32(detail::all_lanes, a, b),
                cd0 = _mm512_maskz_unpacklo_epi32(detail::all_lanes, c, d),
                cd1 = _mm512_maskz_unpackhi_epi32(detail::all_lanes, c, d);
  return {i32x16{_mm512_maskz_unpacklo_epi64(0xff, ab0, cd0)}, i32x16{_mm512_maskz_unpackhi_epi64(0xff, ab0, cd0)},
          i32x16{_mm512_maskz_unpacklo_epi64(0xff, ab1, cd1)}, i32x16{_mm512_maskz_unpackhi_epi64(0xff, ab1, cd1)}};
}
/// Lane r: the four bytes at p + r stride.
TENON_ALWAYS_INLINE i32x16 load_strided(std::byte const* p, index_t stride) {
  __m512i const row = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i const at = _mm512_mullo_epi32(row, _mm512_set1_epi32(int(stride)));
  return {_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), detail::all_lanes, at, p, 1)};
}
TENON_ALWAYS_INLINE void store_int(std::int32_t* p, i32x16 a) { _mm512_storeu_si512(p, a.v); }
/// Writes the low byte of each lane.
TENON_ALWAYS_INLINE void store_low_bytes(std::int8_t* p, i32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(detail::all_lanes, a.v));
}
/// table[byte], for bytes below 16.
TENON_ALWAYS_INLINE i32x16 look_up(std::array<std::uint8_t, 16> const& table, i32x16 bytes) {
  __m128i const t = _mm_loadu_si128(reinterpret_cast<__m128i const*>(table.data()));
  return {_mm512_shuffle_epi8(_mm512_maskz_broadcast_i32x4(detail::all_lanes, t), bytes.v)};
}
/// Byte J of each lane, four times.
template <int J>
TENON_ALWAYS_INLINE i32x16 repeat_byte(i32x16 a) {
  __m128i const pick = _mm_setr_epi32(four_of(J), four_of(4 + J), four_of(8 + J), four_of(12 + J));
  return {_mm512_shuffle_epi8(a.v, _mm512_maskz_broadcast_i32x4(detail::all_lanes, pick))};
}
/// Adds `value` to each byte where the same byte of `bits` has the bit that is set in the same byte of `bit`.
TENON_ALWAYS_INLINE i32x16 add_where(i32x16 bytes, i32x16 bits, i32x16 bit, int value) {
  return {_mm512_mask_add_epi8(bytes.v, _mm512_test_epi8_mask(bits.v, bit.v), bytes.v, _mm512_set1_epi8(char(value)))};
}
/// sum + the four products of unsigned bytes of a and signed bytes of b, lane by lane, b within +-127.
/// Bytes of a are below 128 unless `Wide`.
template <bool Wide>
TENON_ALWAYS_INLINE i32x16 add_products(i32x16 sum, i32x16 a, i32x16 b) {
#  if TENON_SIMD_VNNI()
  return {_mm512_dpbusd_epi32(sum.v, a.v, b.v)};
#  else
  auto const part = [&](__m512i bytes) TENON_INLINE_LAMBDA {  // pairs of products fit 16 bits
    return _mm512_madd_epi16(_mm512_maddubs_epi16(bytes, b.v), _mm512_set1_epi16(1));
  };
  if constexpr (!Wide) return {_mm512_add_epi32(sum.v, part(a.v))};
  __m512i const top = _mm512_set1_epi8(char(0x80));
  return {_mm512_add_epi32(_mm512_add_epi32(sum.v, part(_mm512_and_si512(_mm512_set1_epi8(0x7f), a.v))),
                           part(_mm512_and_si512(top, a.v)))};
#  endif
}

#elif TENON_SIMD_AVX2()

namespace detail {
TENON_ALWAYS_INLINE void load_turned(std::byte const* p, index_t stride, __m256i (&out)[4]) {
  auto const rows = [&](int r) TENON_INLINE_LAMBDA {  // r, r + 4
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p + r * stride))),
        _mm_loadu_si128(reinterpret_cast<__m128i const*>(p + (r + 4) * stride)), 1);
  };
  __m256i const a = rows(0), b = rows(1), c = rows(2), d = rows(3);
  __m256i const ab0 = _mm256_unpacklo_epi32(a, b), ab1 = _mm256_unpackhi_epi32(a, b);
  __m256i const cd0 = _mm256_unpacklo_epi32(c, d), cd1 = _mm256_unpackhi_epi32(c, d);
  out[0] = _mm256_unpacklo_epi64(ab0, cd0), out[1] = _mm256_unpackhi_epi64(ab0, cd0);
  out[2] = _mm256_unpacklo_epi64(ab1, cd1), out[3] = _mm256_unpackhi_epi64(ab1, cd1);
}
}  // namespace detail
TENON_ALWAYS_INLINE std::array<i32x16, 4> load_turned(std::byte const* p, index_t stride) {
  __m256i lo[4], hi[4];
  detail::load_turned(p, stride, lo);
  detail::load_turned(p + 8 * stride, stride, hi);
  return {i32x16{lo[0], hi[0]}, i32x16{lo[1], hi[1]}, i32x16{lo[2], hi[2]}, i32x16{lo[3], hi[3]}};
}
TENON_ALWAYS_INLINE i32x16 load_strided(std::byte const* p, index_t stride) {
  __m256i const at = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(int(stride)));
  auto const eight = [&](std::byte const* q)
                         TENON_INLINE_LAMBDA { return _mm256_i32gather_epi32(reinterpret_cast<int const*>(q), at, 1); };
  return {eight(p), eight(p + 8 * stride)};
}
TENON_ALWAYS_INLINE void store_int(std::int32_t* p, i32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
TENON_ALWAYS_INLINE void store_low_bytes(std::int8_t* p, i32x16 a) {
  __m256i const pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  auto const eight = [&](__m256i v) TENON_INLINE_LAMBDA {
    __m256i const t = _mm256_shuffle_epi8(v, pick);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1));
  };
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi64(eight(a.lo), eight(a.hi)));
}
TENON_ALWAYS_INLINE i32x16 look_up(std::array<std::uint8_t, 16> const& table, i32x16 bytes) {
  __m256i const t = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<__m128i const*>(table.data())));
  return {_mm256_shuffle_epi8(t, bytes.lo), _mm256_shuffle_epi8(t, bytes.hi)};
}
template <int J>
TENON_ALWAYS_INLINE i32x16 repeat_byte(i32x16 a) {
  __m256i const pick =
      _mm256_broadcastsi128_si256(_mm_setr_epi32(four_of(J), four_of(4 + J), four_of(8 + J), four_of(12 + J)));
  return {_mm256_shuffle_epi8(a.lo, pick), _mm256_shuffle_epi8(a.hi, pick)};
}
TENON_ALWAYS_INLINE i32x16 add_where(i32x16 bytes, i32x16 bits, i32x16 bit, int value) {
  auto const added = [&](__m256i x, __m256i one) TENON_INLINE_LAMBDA {
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(x, one), one), _mm256_set1_epi8(char(value)));
  };
  return {_mm256_add_epi8(bytes.lo, added(bits.lo, bit.lo)), _mm256_add_epi8(bytes.hi, added(bits.hi, bit.hi))};
}
template <bool Wide>
TENON_ALWAYS_INLINE i32x16 add_products(i32x16 sum, i32x16 a, i32x16 b) {
  auto const add = [](__m256i s, __m256i x, __m256i y) TENON_INLINE_LAMBDA {
#  if TENON_SIMD_VNNI()
    return _mm256_dpbusd_avx_epi32(s, x, y);
#  else
    auto const part = [&](__m256i bytes) TENON_INLINE_LAMBDA {  // pairs of products fit 16 bits
      return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, y), _mm256_set1_epi16(1));
    };
    if constexpr (!Wide) return _mm256_add_epi32(s, part(x));
    __m256i const top = _mm256_set1_epi8(char(0x80));
    return _mm256_add_epi32(_mm256_add_epi32(s, part(_mm256_andnot_si256(top, x))), part(_mm256_and_si256(top, x)));
#  endif
  };
  return {add(sum.lo, a.lo, b.lo), add(sum.hi, a.hi, b.hi)};
}

#else

namespace detail {
/// Byte j of lane i.
TENON_ALWAYS_INLINE int byte_of(i32x16 const& a, int i, int j) { return int(std::uint32_t(a.v[i]) >> (8 * j) & 0xffu); }
template <class F>
TENON_ALWAYS_INLINE i32x16 each_byte(F f) {
  return each<i32x16>([&](int i) {
    std::uint32_t word = 0;
    for (int j = 0; j < 4; ++j) word |= std::uint32_t(f(i, j) & 0xff) << (8 * j);
    return std::int32_t(word);
  });
}
}  // namespace detail
TENON_ALWAYS_INLINE i32x16 load_strided(std::byte const* p, index_t stride) {
  return detail::each<i32x16>([&](int i) {
    std::int32_t word;
    std::memcpy(&word, p + i * stride, sizeof word);
    return word;
  });
}
TENON_ALWAYS_INLINE std::array<i32x16, 4> load_turned(std::byte const* p, index_t stride) {
  return {load_strided(p, stride), load_strided(p + 4, stride), load_strided(p + 8, stride),
          load_strided(p + 12, stride)};
}
TENON_ALWAYS_INLINE void store_int(std::int32_t* p, i32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
TENON_ALWAYS_INLINE void store_low_bytes(std::int8_t* p, i32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = std::int8_t(a.v[i]);
}
TENON_ALWAYS_INLINE i32x16 look_up(std::array<std::uint8_t, 16> const& table, i32x16 bytes) {
  return detail::each_byte([&](int i, int j) { return int(table[std::size_t(detail::byte_of(bytes, i, j))]); });
}
template <int J>
TENON_ALWAYS_INLINE i32x16 repeat_byte(i32x16 a) {
  return detail::each<i32x16>([&](int i) { return four_of(detail::byte_of(a, i, J)); });
}
TENON_ALWAYS_INLINE i32x16 add_where(i32x16 bytes, i32x16 bits, i32x16 bit, int value) {
  return detail::each_byte([&](int i, int j) {
    return detail::byte_of(bytes, i, j) + (detail::byte_of(bits, i, j) & detail::byte_of(bit, i, j) ? value : 0);
  });
}
template <bool Wide>
TENON_ALWAYS_INLINE i32x16 add_products(i32x16 sum, i32x16 a, i32x16 b) {
  return detail::each<i32x16>([&](int i) {
    std::int32_t s = sum.v[i];
    for (int j = 0; j < 4; ++j) s += detail::byte_of(a, i, j) * std::int8_t(detail::byte_of(b, i, j));
    return s;
  });
}

#endif

/// The numbers whose fp16 bits are the low halves of the lanes.
TENON_ALWAYS_INLINE f32x16 from_halves(i32x16 a) {
  alignas(32) std::uint16_t bits[lanes];
  store_low_halves(bits, a);
  fp16 halves[lanes];
  std::memcpy(halves, bits, sizeof bits);
  return load(halves);
}

}  // namespace tenon::simd
