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
#include <tenon/ops/host/gemm_kernel.hpp>

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

/// The bits of `mask` in each byte, of lanes shifted up by N bits, or down by -N: no byte's bits may reach the next.
template <int N = 0>
TENON_ALWAYS_INLINE i32x16 bits(i32x16 a, int mask) {
  if constexpr (N > 0) a = simd::shift_left<N>(a);
  if constexpr (N < 0) a = simd::shift_right<-N>(a);
  return a & simd::broadcast_bytes(mask);
}
/// The bits of `mask`, N up, of each lane as a number.
template <int N>
TENON_ALWAYS_INLINE simd::f32x16 number_at(i32x16 a, int mask = 0xff) {
  if constexpr (N > 0) a = simd::shift_right<N>(a);
  return simd::to_float(a & simd::broadcast_int(mask));
}
TENON_ALWAYS_INLINE simd::f32x16 low_half(i32x16 a) { return simd::from_halves(a); }
TENON_ALWAYS_INLINE simd::f32x16 high_half(i32x16 a) { return simd::from_halves(simd::shift_right<16>(a)); }

/// Values 0 .. 15 are the low nibbles of sixteen bytes, the others the high ones.
TENON_ALWAYS_INLINE void take_nibbles(weight_group_rows& g, std::byte const* p, index_t stride) {
  auto const t = simd::load_turned(p, stride);
  for (std::size_t i = 0; i < 4; ++i) {
    g.bytes[i] = bits(t[i], 15);
    g.bytes[4 + i] = bits<-4>(t[i], 15);
  }
}
/// Bit i of the four bytes at p belongs to value i.
template <int... C>
TENON_ALWAYS_INLINE void add_fifth_bits(weight_group_rows& g, std::byte const* p, index_t stride,
                                        std::integer_sequence<int, C...>) {
  i32x16 const fifths = simd::load_strided(p, stride);
  ((g.bytes[C] = simd::add_where(g.bytes[C], simd::repeat_byte<C / 2>(fifths),
                                 simd::broadcast_int(C % 2 ? std::int32_t(0x80402010u) : 0x08040201), 16)),
   ...);
}
/// Bytes 0 .. 16 n - 1 of each row, turned: four of them are a lane.
template <int N>
TENON_ALWAYS_INLINE void turn(i32x16* to, std::byte const* p, index_t stride) {
  for (int i = 0; i < N; ++i) {
    auto const t = simd::load_turned(p + 16 * i, stride);
    for (std::size_t j = 0; j < 4; ++j) to[4 * i + int(j)] = t[j];
  }
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
    turn<2>(g.bytes, p + 2, stride);
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

/// A block of 256: its bytes, turned, and the scales of its eight groups.
template <weight_format F>
class block_of_256 {
 public:
  TENON_ALWAYS_INLINE block_of_256(std::byte const* p, index_t stride) {
    turn<whole>(raw, p, stride);
    if constexpr (F == weight_format::q4_k || F == weight_format::q5_k) {
      i32x16 const a = raw[1], b = raw[2], c = raw[3];
      d = low_half(raw[0]), minimum = simd::negate(high_half(raw[0]));
      scale_bytes[0] = bits(a, 63), minimum_bytes[0] = bits(b, 63);
      scale_bytes[1] = bits(c, 15) | bits<-2>(a, 0x30);
      minimum_bytes[1] = bits<-4>(c, 15) | bits<-2>(b, 0x30);
    } else if constexpr (F == weight_format::q6_k) {
      for (int i = 0; i < 4; ++i) scale_bytes[i] = raw[48 + i] ^ simd::broadcast_bytes(0x80);
      d = high_half(simd::load_strided(p + 206, stride));
    } else if constexpr (F == weight_format::q3_k) {
      i32x16 const a = simd::load_strided(p + 96, stride), b = simd::load_strided(p + 100, stride),
                   c = simd::load_strided(p + 104, stride);
      scale_bytes[0] = bits(a, 15) | bits<4>(c, 0x30);
      scale_bytes[1] = bits(b, 15) | bits<2>(c, 0x30);
      scale_bytes[2] = bits<-4>(a, 15) | bits(c, 0x30);
      scale_bytes[3] = bits<-4>(b, 15) | bits<-2>(c, 0x30);
      d = high_half(simd::load_strided(p + 106, stride));
    } else {
      static_assert(F == weight_format::q2_k);
      for (int i = 0; i < 4; ++i) scale_bytes[i] = raw[i];
      i32x16 const head = simd::load_strided(p + 80, stride);
      d = low_half(head), minimum = simd::negate(high_half(head));
    }
  }

  /// Group 4 half + Q of eight.
  template <int Q>
  TENON_ALWAYS_INLINE void read(weight_group_rows& g, index_t half) const {
    if constexpr (F == weight_format::q4_k || F == weight_format::q5_k) {
      g.scale = d * number_at<8 * Q>(scale_bytes[half]);
      g.minimum[0] = minimum * number_at<8 * Q>(minimum_bytes[half]);
    } else {
      g.scale = d;
      unrolled<2>([&](auto h) TENON_INLINE_LAMBDA {
        constexpr int at = 16 * (Q % 2) + 8 * h;
        i32x16 const bytes = scale_bytes[2 * half + Q / 2];
        if constexpr (F == weight_format::q2_k) {
          g.part[h] = number_at<at>(bytes, 15);
          g.minimum[h] = minimum * number_at<at + 4>(bytes, 15);
        } else {
          g.part[h] = number_at<at>(bytes) - simd::broadcast(F == weight_format::q6_k ? 128.0f : 32.0f);
        }
      });
    }
    i32x16 const bit = simd::broadcast_bytes(1 << (4 * half + Q));  // of this group, where a byte is shared by all
    i32x16 const* const at = raw + first_values + half * values_of_half;
    unrolled<8>([&](auto i) TENON_INLINE_LAMBDA {
      i32x16& to = g.bytes[i];
      if constexpr (F == weight_format::q4_k) to = bits<-4 * (Q % 2)>(at[8 * (Q / 2) + i], 15);
      else if constexpr (F == weight_format::q5_k)
        to = simd::add_where(bits<-4 * (Q % 2)>(at[8 * (Q / 2) + i], 15), raw[4 + i], bit, 16);
      else if constexpr (F == weight_format::q6_k)
        to = bits<-4 * (Q / 2)>(at[8 * (Q % 2) + i], 15) | bits<4 - 2 * Q>(raw[32 + 8 * half + i], 0x30);
      else if constexpr (F == weight_format::q3_k) to = simd::add_where(bits<-2 * Q>(at[i], 3), raw[i], bit, 4);
      else to = bits<-2 * Q>(at[i], 3);
    });
  }

 private:
  static constexpr bool nibbles = F == weight_format::q4_k || F == weight_format::q5_k || F == weight_format::q6_k;
  static constexpr int whole = int(layout_of(F).bytes / 16);
  static constexpr index_t first_values = F == weight_format::q6_k   ? 0
                                          : F == weight_format::q5_k ? 12
                                          : F == weight_format::q3_k ? 8
                                                                     : 4;
  static constexpr index_t values_of_half = nibbles ? 16 : 8;

  i32x16 raw[4 * whole];                    ///< four bytes of each row
  simd::f32x16 d, minimum{};                ///< the latter with its sign
  i32x16 scale_bytes[4], minimum_bytes[2];  ///< of 16 or 32 values in order
};

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
    for (index_t i = 0; i < n; p += layout.bytes) {
      blocks::block_of_256<F> const block(p, stride);
      for (index_t half = 0; half < 2; ++half, i += 4)
        unrolled<4>([&](auto q) TENON_INLINE_LAMBDA {
          weight_group_rows g;
          block.template read<q>(g, half);
          take(i + q, g);
        });
    }
  }
}

}  // namespace tenon::ops::detail
