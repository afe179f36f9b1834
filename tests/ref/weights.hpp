// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Weights in blocks, value by value in float64 as their format is written down, and random ones.
/// @source ggml-common.h and dequantize_row_* of ggml-quants.c
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include <tenon/core/element.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/core/weight_format.hpp>

namespace ref {

using tenon::index_t;
using tenon::weight_format;

inline int byte_at(std::byte const* p, index_t i) { return int(p[i]); }
inline double half_at(std::byte const* p, index_t i) {
  std::uint16_t bits;
  std::memcpy(&bits, p + i, 2);
  return double(float(tenon::fp16::from_bits(bits)));
}
inline int nibble(std::byte const* qs, index_t j, index_t half) {  // j + half: low ones first
  return j < half ? byte_at(qs, j) & 15 : byte_at(qs, j - half) >> 4;
}

/// Value `e` of a block at p.
inline double block_value(weight_format format, std::byte const* p, index_t e) {
  using enum weight_format;
  auto const fifth = [&](index_t at) {
    std::uint32_t bits;
    std::memcpy(&bits, p + at, 4);
    return int(bits >> e & 1) << 4;
  };
  static constexpr int iq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static constexpr double e2m1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
  index_t const half = e / 128, in_half = e % 128, quarter = in_half / 32, l = e % 32;
  auto const k_scale = [&](index_t j) {  // of Q4_K and Q5_K: scale, minimum
    auto const s = [&](index_t i) { return byte_at(p, 4 + i); };
    if (j < 4) return std::array<int, 2>{s(j) & 63, s(j + 4) & 63};
    return std::array<int, 2>{(s(j + 4) & 15) | (s(j - 4) >> 6 << 4), (s(j + 4) >> 4) | (s(j) >> 6 << 4)};
  };
  switch (format) {
    case q8_0: return half_at(p, 0) * std::int8_t(byte_at(p, 2 + e));
    case q4_0: return half_at(p, 0) * (nibble(p + 2, e, 16) - 8);
    case q4_1: return half_at(p, 0) * nibble(p + 4, e, 16) + half_at(p, 2);
    case q5_0: return half_at(p, 0) * ((nibble(p + 6, e, 16) | fifth(2)) - 16);
    case q5_1: return half_at(p, 0) * (nibble(p + 8, e, 16) | fifth(4)) + half_at(p, 2);
    case iq4_nl: return half_at(p, 0) * iq4[nibble(p + 2, e, 16)];
    case mxfp4: return std::ldexp(e2m1[nibble(p + 1, e, 16)], byte_at(p, 0) - 127);
    case q4_k:
    case q5_k: {
      auto const [scale, minimum] = k_scale(e / 32);
      int q = nibble(p + (format == q4_k ? 16 : 48) + e / 64 * 32, e % 64, 32);
      if (format == q5_k) q |= (byte_at(p, 16 + l) >> (e / 32) & 1) << 4;
      return half_at(p, 0) * scale * q - half_at(p, 2) * minimum;
    }
    case q6_k: {
      int const low = byte_at(p, 64 * half + 32 * (quarter % 2) + l) >> (quarter / 2 * 4) & 15;
      int const high = byte_at(p, 128 + 32 * half + l) >> (2 * quarter) & 3;
      return half_at(p, 208) * std::int8_t(byte_at(p, 192 + e / 16)) * ((low | high << 4) - 32);
    }
    case q2_k: {
      int const q = byte_at(p, 16 + 32 * half + l) >> (2 * quarter) & 3, s = byte_at(p, e / 16);
      return half_at(p, 80) * (s & 15) * q - half_at(p, 82) * (s >> 4);
    }
    case q3_k: {
      int const low = byte_at(p, 32 + 32 * half + l) >> (2 * quarter) & 3, high = byte_at(p, l) >> (e / 32) & 1;
      index_t const j = e / 16;
      int const four = j < 8 ? byte_at(p, 96 + j) & 15 : byte_at(p, 96 + j - 8) >> 4;
      int const two = byte_at(p, 104 + j % 4) >> (j / 4 * 2) & 3;
      return half_at(p, 108) * ((four | two << 4) - 32) * (low - (high ? 0 : 4));
    }
    default: return 0;
  }
}

/// Value (r, c) of a matrix in any format.
inline double weight_value(tenon::weight_view const& w, index_t r, index_t c) {
  if (w.format == weight_format::f32) {
    float x;
    std::memcpy(&x, w.row(r) + 4 * c, 4);
    return double(x);
  }
  if (w.format == weight_format::f16) return half_at(w.row(r), 2 * c);
  if (w.format == weight_format::bf16) {
    std::uint16_t bits;
    std::memcpy(&bits, w.row(r) + 2 * c, 2);
    return double(float(tenon::bf16::from_bits(bits)));
  }
  auto const layout = layout_of(w.format);
  return block_value(w.format, w.row(r) + c / layout.values * layout.bytes, c % layout.values);
}

/// Random weights of [rows, cols], about as large as a model's, with their own memory.
struct random_weights {
  std::vector<std::byte> bytes;
  tenon::weight_view view;
  random_weights(weight_format format, index_t rows, index_t cols, std::uint64_t seed = 1) {
    using enum weight_format;
    tenon::random_stream const random(seed, "weights");
    view = {format, nullptr, rows, cols};
    bytes.resize(std::size_t(rows * view.row_bytes()));
    view.data = bytes.data();
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(random.word(0, i) & 0xff);
    auto const layout = layout_of(format);
    auto const number = [&](std::byte* p, float most, std::uint64_t i) {
      float const x = most * (2 * random.uniform(1, i) - 1);
      tenon::fp16 const h(x);
      tenon::bf16 const b(x);
      if (format == f32) std::memcpy(p, &x, 4);
      else std::memcpy(p, format == bf16 ? static_cast<void const*>(&b) : &h, 2);
    };
    for (std::size_t i = 0; i < bytes.size() / std::size_t(layout.bytes); ++i) {
      std::byte* const p = bytes.data() + i * std::size_t(layout.bytes);
      switch (format) {
        case mxfp4: p[0] = std::byte(118 + random.word(1, i) % 6); break;
        case q2_k: number(p + 80, 0.02f, 2 * i), number(p + 82, 0.02f, 2 * i + 1); break;
        case q3_k: number(p + 108, 0.01f, i); break;
        case q6_k: number(p + 208, 0.0005f, i); break;
        case q4_k:
        case q5_k: number(p, 0.002f, 2 * i), number(p + 2, 0.002f, 2 * i + 1); break;
        case q4_1:
        case q5_1: number(p, 0.01f, 2 * i), number(p + 2, 0.1f, 2 * i + 1); break;
        default: number(p, layout.values == 1 ? 0.1f : 0.01f, i);
      }
    }
  }
};

}  // namespace ref
