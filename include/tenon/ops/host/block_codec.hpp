// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What the bits of a block of quantized weights mean, and how they are put there.
/// @source ggml-common.h and the dequantize_row_* of ggml-quants.c; MXFP4: OCP Microscaling Formats 1.0
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <tenon/core/element.hpp>
#include <tenon/core/weight_format.hpp>

namespace tenon::ops::detail {

using block_byte = unsigned char;

inline float half_at(block_byte const* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, 2);
  return float(fp16::from_bits(bits));
}
/// Returns the number as it is then stored.
inline float put_half(block_byte* p, float value) {
  fp16 const half(value);
  std::memcpy(p, &half.bits, 2);
  return float(half);
}

/// The sixteen values of a block with a table.
inline constexpr std::array<float, 16> iq4_nl_values{-127, -104, -83, -65, -49, -35, -22, -10,
                                                     1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr std::array<float, 16> mxfp4_values{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
/// 2^(exponent - 128): half the scale that the byte stands for, as the values above are doubled.
constexpr float mxfp4_scale(block_byte exponent) {
  return std::bit_cast<float>(exponent < 2 ? 0x200000u << exponent : std::uint32_t(exponent - 1) << 23);
}

/// A block of 32 levels: level i of the lower half is the low nibble of byte i, of the upper half the high one; of five
/// bits the highest are in a word of their own.
template <int Bits, int QuantsAt, int HighAt = 0>
struct levels_of_32 {
  static int get(block_byte const* b, int i) {
    int const low = b[QuantsAt + i % 16] >> (i < 16 ? 0 : 4) & 15;
    if constexpr (Bits == 4) return low;
    else return low | (b[HighAt + i / 8] >> (i % 8) & 1) << 4;
  }
  /// Into a block of zeros.
  static void put(block_byte* b, int i, int level) {
    b[QuantsAt + i % 16] |= block_byte((level & 15) << (i < 16 ? 0 : 4));
    if constexpr (Bits == 5) b[HighAt + i / 8] |= block_byte(level >> 4 << (i % 8));
  }
};
/// A block of 256 levels, of which 128 share bytes: 32 bytes hold two bits of each four, or 64 bytes four of each two.
template <int QuantsAt>
struct two_bits_of_256 {
  static int get(block_byte const* b, int i) { return b[QuantsAt + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3; }
  static void put(block_byte* b, int i, int level) {
    b[QuantsAt + i / 128 * 32 + i % 32] |= block_byte((level & 3) << (i / 32 % 4 * 2));
  }
};
/// One bit of each of 256 levels: byte l holds those of the levels l, l + 32, l + 64, ...
template <int BitsAt>
struct one_bit_of_256 {
  static int get(block_byte const* b, int i) { return b[BitsAt + i % 32] >> (i / 32) & 1; }
  static void put(block_byte* b, int i, int bit) { b[BitsAt + i % 32] |= block_byte(bit << (i / 32)); }
};
/// Four bits of 256 levels, where 64 share 32 bytes.
template <int QuantsAt>
struct four_bits_of_256 {
  static int get(block_byte const* b, int i) { return b[QuantsAt + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15; }
  static void put(block_byte* b, int i, int level) {
    b[QuantsAt + i / 64 * 32 + i % 32] |= block_byte((level & 15) << (i / 32 % 2 * 4));
  }
};

/// The levels of a format, `get(block, i)` and `put(block, i, level)` for i < values, and how they become numbers.
template <weight_format Format>
struct block_codec;

/// (level - Zero) * d, in blocks of 32.
template <int Bits>
struct centred_codec {
  static constexpr int zero = 1 << (Bits - 1);
  using levels = levels_of_32<Bits, Bits == 4 ? 2 : 6, 2>;
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b);
    for (int i = 0; i < 32; ++i) out[i] = float(levels::get(b, i) - zero) * d;
  }
};
template <>
struct block_codec<weight_format::q4_0> : centred_codec<4> {};
template <>
struct block_codec<weight_format::q5_0> : centred_codec<5> {};

/// level * d + m, in blocks of 32.
template <int Bits>
struct affine_codec {
  static constexpr int most = (1 << Bits) - 1;
  using levels = levels_of_32<Bits, Bits == 4 ? 4 : 8, 4>;
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 32; ++i) out[i] = float(levels::get(b, i)) * d + m;
  }
};
template <>
struct block_codec<weight_format::q4_1> : affine_codec<4> {};
template <>
struct block_codec<weight_format::q5_1> : affine_codec<5> {};

template <>
struct block_codec<weight_format::q8_0> {
  struct levels {
    static int get(block_byte const* b, int i) { return static_cast<signed char>(b[2 + i]); }
    static void put(block_byte* b, int i, int level) { b[2 + i] = block_byte(level); }
  };
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b);
    for (int i = 0; i < 32; ++i) out[i] = float(levels::get(b, i)) * d;
  }
};

template <>
struct block_codec<weight_format::q2_k> {
  using levels = two_bits_of_256<16>;
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b + 80), minimum = half_at(b + 82);
    for (int s = 0; s < 16; ++s) {
      float const scale = d * float(b[s] & 15), offset = minimum * float(b[s] >> 4);
      for (int i = 16 * s; i < 16 * s + 16; ++i) out[i] = scale * float(levels::get(b, i)) - offset;
    }
  }
};

template <>
struct block_codec<weight_format::q3_k> {
  /// The level is from -4 to 3; the high bit is stored the other way round, which adding 4 does.
  struct levels {
    using low = two_bits_of_256<32>;
    using high = one_bit_of_256<0>;
    static int get(block_byte const* b, int i) { return low::get(b, i) + 4 * high::get(b, i) - 4; }
    static void put(block_byte* b, int i, int level) {
      low::put(b, i, level + 4);
      high::put(b, i, (level + 4) >> 2);
    }
  };
  static constexpr int scales_at = 96;
  /// Of six bits: four of scale s in a nibble, two in the last four bytes.
  static int scale(block_byte const* b, int s) {
    block_byte const* const p = b + scales_at;
    return ((p[s % 8] >> (s / 8 * 4) & 15) | (p[8 + s % 4] >> (s / 4 * 2) & 3) << 4) - 32;
  }
  static void put_scale(block_byte* b, int s, int scale) {
    block_byte* const p = b + scales_at;
    p[s % 8] |= block_byte(((scale + 32) & 15) << (s / 8 * 4));
    p[8 + s % 4] |= block_byte((scale + 32) >> 4 << (s / 4 * 2));
  }
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b + 108);
    for (int s = 0; s < 16; ++s) {
      float const factor = d * float(scale(b, s));
      for (int i = 16 * s; i < 16 * s + 16; ++i) out[i] = factor * float(levels::get(b, i));
    }
  }
};

/// Q4_K and Q5_K: eight scales and eight minima of six bits, for 32 levels each.
template <int Bits>
struct scaled_affine_codec {
  static constexpr int most = (1 << Bits) - 1;
  struct levels {
    using low = four_bits_of_256<Bits == 4 ? 16 : 48>;
    using high = one_bit_of_256<16>;
    static int get(block_byte const* b, int i) {
      if constexpr (Bits == 4) return low::get(b, i);
      else return low::get(b, i) | high::get(b, i) << 4;
    }
    static void put(block_byte* b, int i, int level) {
      low::put(b, i, level);
      if constexpr (Bits == 5) high::put(b, i, level >> 4);
    }
  };
  static constexpr int scales_at = 4;
  static int scale(block_byte const* b, int s) {
    block_byte const* const p = b + scales_at;
    return s < 4 ? p[s] & 63 : (p[s + 4] & 15) | p[s - 4] >> 6 << 4;
  }
  static int minimum(block_byte const* b, int s) {
    block_byte const* const p = b + scales_at;
    return s < 4 ? p[s + 4] & 63 : p[s + 4] >> 4 | p[s] >> 6 << 4;
  }
  static void put_scales(block_byte* b, int s, int scale, int minimum) {
    block_byte* const p = b + scales_at;
    if (s < 4) {
      p[s] |= block_byte(scale);
      p[s + 4] |= block_byte(minimum);
    } else {
      p[s + 4] = block_byte((scale & 15) | (minimum & 15) << 4);
      p[s - 4] |= block_byte(scale >> 4 << 6);
      p[s] |= block_byte(minimum >> 4 << 6);
    }
  }
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b), least = half_at(b + 2);
    for (int s = 0; s < 8; ++s) {
      float const factor = d * float(scale(b, s)), offset = least * float(minimum(b, s));
      for (int i = 32 * s; i < 32 * s + 32; ++i) out[i] = factor * float(levels::get(b, i)) - offset;
    }
  }
};
template <>
struct block_codec<weight_format::q4_k> : scaled_affine_codec<4> {};
template <>
struct block_codec<weight_format::q5_k> : scaled_affine_codec<5> {};

template <>
struct block_codec<weight_format::q6_k> {
  /// From -32 to 31.
  struct levels {
    using high = two_bits_of_256<128>;
    static int get(block_byte const* b, int i) {
      return ((b[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15) | high::get(b, i) << 4) - 32;
    }
    static void put(block_byte* b, int i, int level) {
      b[i / 128 * 64 + i % 64] |= block_byte(((level + 32) & 15) << (i / 64 % 2 * 4));
      high::put(b, i, (level + 32) >> 4);
    }
  };
  static constexpr int scales_at = 192;
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b + 208);
    for (int s = 0; s < 16; ++s) {
      float const factor = d * float(static_cast<signed char>(b[scales_at + s]));
      for (int i = 16 * s; i < 16 * s + 16; ++i) out[i] = factor * float(levels::get(b, i));
    }
  }
};

template <>
struct block_codec<weight_format::iq4_nl> {
  using levels = levels_of_32<4, 2>;
  static void decode(block_byte const* b, float* out) {
    float const d = half_at(b);
    for (int i = 0; i < 32; ++i) out[i] = d * iq4_nl_values[std::size_t(levels::get(b, i))];
  }
};
template <>
struct block_codec<weight_format::mxfp4> {
  using levels = levels_of_32<4, 1>;
  static void decode(block_byte const* b, float* out) {
    float const d = mxfp4_scale(b[0]);
    for (int i = 0; i < 32; ++i) out[i] = mxfp4_values[std::size_t(levels::get(b, i))] * d;
  }
};

}  // namespace tenon::ops::detail
