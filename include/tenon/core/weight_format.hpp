// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The formats in which files hold weights: plain numbers, and blocks of small integers that share scales.
/// @source ggml-common.h of ggml for the layouts of the blocks; MXFP4: OCP Microscaling Formats 1.0
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <tenon/core/view.hpp>

namespace tenon {

/// Names as in GGUF files. Numbers; blocks of 32 with one fp16 scale (*_1 with a minimum); blocks of 256 with scales of
/// their parts of 16 or 32; blocks of 32 numbers out of a table of 16.
enum class weight_format : std::uint8_t {
  // clang-format off
  f32, f16, bf16,
  q8_0, q4_0, q4_1, q5_0, q5_1,
  q2_k, q3_k, q4_k, q5_k, q6_k,
  iq4_nl, mxfp4,
  // clang-format on
};

/// How a format lays out a row of a matrix: blocks of `values` numbers in `bytes` bytes, one after the other.
struct weight_layout {
  char const* name;
  std::uint32_t gguf_type;  ///< the number that GGUF gives it
  index_t values, bytes;
};

/// In the order of weight_format.
inline constexpr std::array<weight_layout, 15> weight_layouts{{
    {"F32", 0, 1, 4},
    {"F16", 1, 1, 2},
    {"BF16", 30, 1, 2},
    {"Q8_0", 8, 32, 34},
    {"Q4_0", 2, 32, 18},
    {"Q4_1", 3, 32, 20},
    {"Q5_0", 6, 32, 22},
    {"Q5_1", 7, 32, 24},
    {"Q2_K", 10, 256, 84},
    {"Q3_K", 11, 256, 110},
    {"Q4_K", 12, 256, 144},
    {"Q5_K", 13, 256, 176},
    {"Q6_K", 14, 256, 210},
    {"IQ4_NL", 20, 32, 18},
    {"MXFP4", 39, 32, 17},
}};

constexpr weight_layout const& layout_of(weight_format f) { return weight_layouts[std::size_t(f)]; }

constexpr bool is_blocks(weight_format f) { return layout_of(f).values > 1; }
/// function(constant) with the format as a constant, for those that are blocks; false for plain numbers.
template <class Function>
bool with_block_format(weight_format format, Function&& function) {
  static_assert(weight_format::q8_0 == weight_format(3), "tenon: the first three formats are plain numbers.");
  return [&]<std::size_t... f>(std::index_sequence<f...>) {
    return ((std::size_t(format) == f + 3 &&
             (function(std::integral_constant<weight_format, weight_format(f + 3)>{}), true)) ||
            ...);
  }
  (std::make_index_sequence<weight_layouts.size() - 3>{});
}

/// A matrix [rows, cols] as a file holds it: rows one after the other, each of whole blocks.
struct weight_view {
  weight_format format = weight_format::f32;
  std::byte const* data = nullptr;
  index_t rows = 0, cols = 0;  ///< cols is a multiple of the format's block
  constexpr index_t row_bytes() const { return cols / layout_of(format).values * layout_of(format).bytes; }
  constexpr std::byte const* row(index_t r) const { return data + r * row_bytes(); }
  constexpr bool empty() const { return rows == 0 || cols == 0; }
};

}  // namespace tenon
