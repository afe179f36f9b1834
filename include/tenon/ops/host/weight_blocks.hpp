// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Weights in blocks, sixteen rows of a matrix at a time, as bytes and scales in registers.
/// @source the layouts of ggml-quants.c; core/weight_format.hpp
#include <array>
#include <bit>
#include <utility>

#include <tenon/core/error.hpp>
#include <tenon/core/weight_format.hpp>
#include <tenon/exec/host/simd_bytes.hpp>

namespace tenon::ops::detail {

/// What there is to know of a format in blocks besides its layout. A weight is (byte - offset) d_w, or
/// (byte - offset) d_w part where each half of 32 values has an integer of its own, plus the minimum if it has one.
struct weight_traits {
  int offset;   ///< what was added to make the values unsigned
  bool wide;    ///< there are bytes above 127
  bool halves;  ///< 16 values share a scale and a minimum, else 32
  bool minimum;
};
constexpr weight_traits traits_of(weight_format f) {
  switch (f) {
    case weight_format::q8_0: return {128, true, false, false};
    case weight_format::q4_0: return {8, false, false, false};
    case weight_format::q5_0: return {16, false, false, false};
    case weight_format::q4_1:
    case weight_format::q5_1:
    case weight_format::q4_k:
    case weight_format::q5_k: return {0, false, false, true};
    case weight_format::q2_k: return {0, false, true, true};
    case weight_format::q3_k: return {4, false, true, false};
    case weight_format::q6_k: return {32, false, true, false};
    case weight_format::iq4_nl: return {128, true, false, false};
    case weight_format::mxfp4: return {12, false, false, false};
    default: return {};
  }
}

/// The values a row has in common: 32, in every format.
inline constexpr index_t weight_group = 32;

/// 32 values of sixteen rows: a lane is a row.
struct weight_group_rows {
  simd::i32x16 bytes[8];      ///< value 4 i + j of the lane's row is byte j of bytes[i]
  simd::f32x16 scale;         ///< d_w
  simd::f32x16 minimum[2]{};  ///< with its sign; of both halves, or the first is of all
  simd::f32x16 part[2]{};     ///< integers that scale the halves
};

namespace blocks {
using simd::i32x16;

TENON_ALWAYS_INLINE i32x16 both(i32x16 a, int mask) { return a & simd::broadcast_bytes(mask); }
/// The bits of `mask`, `shift` up, of each lane as a number.
TENON_ALWAYS_INLINE simd::f32x16 number_at(i32x16 a, index_t shift, int mask = 0xff) {
  return simd::to_float(simd::shift_right(a, int(shift)) & simd::broadcast_int(mask));
}
TENON_ALWAYS_INLINE simd::f32x16 low_half(i32x16 a) { return simd::from_halves(a); }
TENON_ALWAYS_INLINE simd::f32x16 high_half(i32x16 a) { return simd::from_halves(simd::shift_right<16>(a)); }

/// Values 0 .. 15 are the low nibbles of sixteen bytes, the others the high ones.
TENON_ALWAYS_INLINE void take_nibbles(weight_group_rows& g, std::byte const* p, index_t stride) {
  auto const t = simd::load_turned(p, stride);
  for (std::size_t i = 0; i < 4; ++i) {
    g.bytes[i] = both(t[i], 15);
    g.bytes[4 + i] = both(simd::shift_right<4>(t[i]), 15);
  }
}
/// Bit i of the four bytes at p belongs to value i.
template <int... C>
TENON_ALWAYS_INLINE void add_fifth_bits(weight_group_rows& g, std::byte const* p, index_t stride,
                                        std::integer_sequence<int, C...>) {
  auto const bits = simd::load_strided(p, stride);
  ((g.bytes[C] = simd::add_where<C>(g.bytes[C], bits, 16)), ...);
}
/// (byte >> shift) & mask of 32 bytes.
TENON_ALWAYS_INLINE void take_bits(i32x16 (&bytes)[8], std::byte const* p, index_t stride, int shift, int mask) {
  for (int half = 0; half < 2; ++half) {
    auto const t = simd::load_turned(p + 16 * half, stride);
    for (std::size_t i = 0; i < 4; ++i) bytes[4 * std::size_t(half) + i] = both(simd::shift_right(t[i], shift), mask);
  }
}
/// bytes |= ((byte >> from) & mask) << to.
TENON_ALWAYS_INLINE void add_bits(i32x16 (&bytes)[8], std::byte const* p, index_t stride, int from, int mask, int to) {
  i32x16 more[8];
  take_bits(more, p, stride, from, mask);
  for (int i = 0; i < 8; ++i)
    bytes[i] = bytes[i] | (to == 4 ? simd::shift_left<4>(more[i]) : simd::shift_left<2>(more[i]));
}

/// Block of 32: everything of one group.
template <weight_format F>
TENON_ALWAYS_INLINE void read_block(weight_group_rows& g, std::byte const* p, index_t stride) {
  using enum weight_format;
  constexpr auto eight = std::make_integer_sequence<int, 8>();
  i32x16 const head = simd::load_strided(p, stride);  // begins with the scale, and the minimum of those that have one
  g.scale = low_half(head);
  if constexpr (traits_of(F).minimum) g.minimum[0] = high_half(head);
  if constexpr (F == q8_0) {
    take_bits(g.bytes, p + 2, stride, 0, 0xff);
    for (auto& b : g.bytes) b = b ^ simd::broadcast_bytes(0x80);
  } else if constexpr (F == q4_0) {
    take_nibbles(g, p + 2, stride);
  } else if constexpr (F == q4_1) {
    take_nibbles(g, p + 4, stride);
  } else if constexpr (F == q5_0) {
    take_nibbles(g, p + 6, stride);
    add_fifth_bits(g, p + 2, stride, eight);
  } else if constexpr (F == q5_1) {
    take_nibbles(g, p + 8, stride);
    add_fifth_bits(g, p + 4, stride, eight);
  } else if constexpr (F == iq4_nl) {
    take_nibbles(g, p + 2, stride);
    constexpr std::array<std::uint8_t, 16> values{1,   24,  45,  63,  79,  93,  106, 118,
                                                  129, 141, 153, 166, 181, 197, 217, 241};
    for (auto& b : g.bytes) b = simd::look_up(values, b);
  } else {
    static_assert(F == mxfp4);
    take_nibbles(g, p + 1, stride);
    constexpr std::array<std::uint8_t, 16> twice{12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
    for (auto& b : g.bytes) b = simd::look_up(twice, b);
    // Half of 2^(e - 127), a subnormal for e below 2.
    i32x16 const e = head & simd::broadcast_int(0xff), one = simd::broadcast_int(1);
    auto const small = simd::to_float(e) < simd::broadcast(2.0f);
    i32x16 const subnormal = simd::shift_left<21>(one + (e & one));
    g.scale = simd::from_bits(simd::select(small, subnormal, simd::shift_left<23>(e - one)));
  }
}

/// Scales of the eight groups of a block of 256.
struct scales_of_256 {
  simd::f32x16 d, minimum;
  i32x16 scale_bytes[4], minimum_bytes[2];  ///< in lane r four bytes of row r: of 16 or 32 values in order
};

template <weight_format F>
TENON_ALWAYS_INLINE scales_of_256 read_scales(std::byte const* p, index_t stride) {
  using enum weight_format;
  using simd::shift_left, simd::shift_right;
  scales_of_256 s{};
  if constexpr (F == q4_k || F == q5_k) {
    auto const [head, a, b, c] = simd::load_turned(p, stride);
    s.d = low_half(head), s.minimum = high_half(head);
    s.scale_bytes[0] = both(a, 63), s.minimum_bytes[0] = both(b, 63);
    s.scale_bytes[1] = both(c, 15) | both(shift_right<2>(a), 0x30);
    s.minimum_bytes[1] = both(shift_right<4>(c), 15) | both(shift_right<2>(b), 0x30);
  } else if constexpr (F == q6_k) {
    auto const t = simd::load_turned(p + 192, stride);
    for (std::size_t i = 0; i < 4; ++i) s.scale_bytes[i] = t[i] ^ simd::broadcast_bytes(0x80);
    s.d = high_half(simd::load_strided(p + 206, stride));
  } else if constexpr (F == q3_k) {
    i32x16 const a = simd::load_strided(p + 96, stride), b = simd::load_strided(p + 100, stride),
                 c = simd::load_strided(p + 104, stride);
    s.scale_bytes[0] = both(a, 15) | both(shift_left<4>(c), 0x30);
    s.scale_bytes[1] = both(b, 15) | both(shift_left<2>(c), 0x30);
    s.scale_bytes[2] = both(shift_right<4>(a), 15) | both(c, 0x30);
    s.scale_bytes[3] = both(shift_right<4>(b), 15) | both(shift_right<2>(c), 0x30);
    s.d = high_half(simd::load_strided(p + 106, stride));
  } else {
    static_assert(F == q2_k);
    auto const t = simd::load_turned(p, stride);
    for (std::size_t i = 0; i < 4; ++i) s.scale_bytes[i] = t[i];
    i32x16 const head = simd::load_strided(p + 80, stride);
    s.d = low_half(head), s.minimum = high_half(head);
  }
  return s;
}

/// Group b of a block of 256.
template <weight_format F>
TENON_ALWAYS_INLINE void read_group(weight_group_rows& g, scales_of_256 const& s, std::byte const* p, index_t stride,
                                    index_t b) {
  using enum weight_format;
  int const half = int(b / 4), quarter = int(b % 4);
  if constexpr (F == q4_k || F == q5_k) {
    g.scale = s.d * number_at(s.scale_bytes[half], 8 * quarter);
    g.minimum[0] = simd::negate(s.minimum * number_at(s.minimum_bytes[half], 8 * quarter));
    take_bits(g.bytes, p + (F == q4_k ? 16 : 48) + 32 * (b / 2), stride, int(4 * (b % 2)), 15);
    if constexpr (F == q5_k) add_bits(g.bytes, p + 16, stride, int(b), 1, 4);
  } else {
    g.scale = s.d;
    for (index_t h = 0; h < 2; ++h) {
      i32x16 const bytes = s.scale_bytes[b / 2];
      index_t const at = 16 * (b % 2) + 8 * h;
      if constexpr (F == q2_k) {
        g.part[h] = number_at(bytes, at, 15);
        g.minimum[h] = simd::negate(s.minimum * number_at(bytes, at + 4, 15));
      } else {
        g.part[h] = number_at(bytes, at) - simd::broadcast(F == q6_k ? 128.0f : 32.0f);
      }
    }
    if constexpr (F == q6_k) {
      take_bits(g.bytes, p + 64 * half + 32 * (quarter % 2), stride, 4 * (quarter / 2), 15);
      add_bits(g.bytes, p + 128 + 32 * half, stride, 2 * quarter, 3, 4);
    } else if constexpr (F == q3_k) {
      take_bits(g.bytes, p + 32 + 32 * half, stride, 2 * quarter, 3);
      add_bits(g.bytes, p, stride, int(b), 1, 2);
    } else {
      take_bits(g.bytes, p + 16 + 32 * half, stride, 2 * quarter, 3);
    }
  }
}

}  // namespace blocks

/// take(i, weight_group_rows) for each group i of 32 values of sixteen rows of `cols` values, which begin at p.
template <weight_format F, class Take>
TENON_ALWAYS_INLINE void for_each_group(std::byte const* p, index_t stride, index_t cols, Take&& take) {
  constexpr weight_layout layout = layout_of(F);
  index_t const n = cols / weight_group;
  if constexpr (layout.values == weight_group) {
    for (index_t i = 0; i < n; ++i, p += layout.bytes) {
      weight_group_rows g;
      blocks::read_block<F>(g, p, stride);
      take(i, g);
    }
  } else {
    constexpr index_t groups = layout.values / weight_group;
    for (index_t i = 0; i < n; p += layout.bytes) {
      auto const scales = blocks::read_scales<F>(p, stride);
      for (index_t b = 0; b < groups; ++b, ++i) {
        weight_group_rows g;
        blocks::read_group<F>(g, scales, p, stride, b);
        take(i, g);
      }
    }
  }
}

}  // namespace tenon::ops::detail
