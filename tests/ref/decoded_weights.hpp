// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Number i of a block of weights in double, read off the table of layouts, each format by itself.
#include <cmath>
#include <cstdint>
#include <cstring>

#include <tenon/core/weight_format.hpp>

namespace ref {

/// Any IEEE half, from its definition.
inline double half(unsigned char const* p) {
  int const bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double const magnitude = exponent == 0    ? std::ldexp(mantissa, -24)
                           : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                            : std::ldexp(1024 + mantissa, exponent - 25);
  return bits >> 15 ? -magnitude : magnitude;
}

inline double decoded(tenon::weight_format format, unsigned char const* b, int i) {
  using enum tenon::weight_format;
  auto const nibble = [](unsigned byte, bool high) { return int(high ? byte >> 4 : byte & 15); };
  auto const byte_with_sign = [](unsigned byte) { return int(byte) - (byte > 127 ? 256 : 0); };
  bool const upper = i >= 16;  // of a block of 32
  int const j = i % 16;
  switch (format) {
    case f32: {
      float f;
      std::memcpy(&f, b, 4);
      return double(f);
    }
    case f16: return half(b);
    case bf16: {
      std::uint32_t const bits = std::uint32_t(b[1]) << 24 | std::uint32_t(b[0]) << 16;
      float f;
      std::memcpy(&f, &bits, 4);
      return double(f);
    }
    case q4_0: return (nibble(b[2 + j], upper) - 8) * half(b);
    case q4_1: return nibble(b[4 + j], upper) * half(b) + half(b + 2);
    case q5_0:
    case q5_1: {
      unsigned char const* const word = format == q5_0 ? b + 2 : b + 4;
      std::uint32_t const high = std::uint32_t(word[0] | word[1] << 8 | word[2] << 16) | std::uint32_t(word[3]) << 24;
      int const q = nibble(word[4 + j], upper) + ((high >> i & 1) ? 16 : 0);
      return format == q5_0 ? (q - 16) * half(b) : q * half(b) + half(b + 2);
    }
    case q8_0: return byte_with_sign(b[2 + i]) * half(b);
    case q2_k: {
      int const n = i / 128, turn = i % 128 / 32, q = b[16 + 32 * n + i % 32] >> (2 * turn) & 3, s = b[i / 16];
      return half(b + 80) * (s & 15) * q - half(b + 82) * (s >> 4);
    }
    case q3_k: {
      int const n = i / 128, turn = i % 128 / 32, k = i / 16;
      int q = b[32 + 32 * n + i % 32] >> (2 * turn) & 3;
      if (!(b[i % 32] >> (4 * n + turn) & 1)) q -= 4;
      int const low = k < 8 ? b[96 + k] & 15 : b[96 + k - 8] >> 4, high = b[104 + k % 4] >> (2 * (k / 4)) & 3;
      return half(b + 108) * ((low | high << 4) - 32) * q;
    }
    case q4_k:
    case q5_k: {
      int const g = i / 64, k = i / 32, l = i % 32;
      unsigned char const *const s = b + 4, *const quants = b + (format == q4_k ? 16 : 48);
      int const scale = k < 4 ? s[k] & 63 : (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
      int const minimum = k < 4 ? s[k + 4] & 63 : (s[k + 4] >> 4) | (s[k] >> 6) << 4;
      int q = nibble(quants[32 * g + l], k % 2);
      if (format == q5_k && (b[16 + l] >> k & 1)) q += 16;
      return half(b) * scale * q - half(b + 2) * minimum;
    }
    case q6_k: {
      int const h = i / 128, quarter = i % 128 / 32, l = i % 32;
      int const low = nibble(b[64 * h + l + (quarter % 2 ? 32 : 0)], quarter >= 2);
      int const high = b[128 + 32 * h + l] >> (2 * quarter) & 3;
      return ((low | high << 4) - 32) * half(b + 208) * byte_with_sign(b[192 + 8 * h + l / 16 + 2 * quarter]);
    }
    case iq4_nl: {
      constexpr int table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
      return table[nibble(b[2 + j], upper)] * half(b);
    }
    case mxfp4: {
      constexpr double table[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
      int const q = nibble(b[1 + j], upper);
      return std::ldexp(q & 8 ? -table[q & 7] : table[q & 7], b[0] - 127);
    }
  }
  return NAN;
}

}  // namespace ref
