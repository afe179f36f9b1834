// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Weights from and to the formats in which files hold them.
#include <cstddef>

#include <tenon/core/view.hpp>
#include <tenon/core/weight_format.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// `wanted`, or when rows of `cols` numbers are no whole blocks of it, what is used in its place, as ggml does: of
/// blocks of 256 the next larger one of 32, else F16.
constexpr weight_format format_that_fits(weight_format wanted, index_t cols) {
  if (cols % layout_of(wanted).values == 0) return wanted;
  switch (wanted) {
    case weight_format::q2_k:
    case weight_format::q3_k: return format_that_fits(weight_format::q4_0, cols);
    case weight_format::q4_k: return format_that_fits(weight_format::q5_0, cols);
    case weight_format::q5_k: return format_that_fits(weight_format::q5_1, cols);
    case weight_format::q6_k: return format_that_fits(weight_format::q8_0, cols);
    default: return weight_format::f16;
  }
}

/// out = the numbers that `in` stands for, to the bit what ggml's reference gives. @shape in, out [rows,cols]
struct dequantize_args {
  weight_view in;
  float* out = nullptr;
};
/// out = `in` in `format`: to the nearest number, or, of blocks, by the search that ggml's reference does and to its
/// bits. One exception: the exponent of an MXFP4 block is exact, where ggml's logarithm may round it up.
/// @shape in [rows,cols]; out rows of whole blocks, as of a weight_view
struct quantize_args {
  float const* in = nullptr;
  weight_format format = weight_format::f32;
  std::byte* out = nullptr;
  index_t rows = 0, cols = 0;
};

/// @test tests/ops/quantize_test.cpp, tests/parity/quantize_test.py
inline constexpr struct dequantize_t : operation<dequantize_t> {
  static constexpr char const* name = "dequantize";
  static profile::work work(dequantize_args const& a) {
    return {0, double(a.in.rows) * double(a.in.row_bytes() + a.in.cols * index_t(sizeof(float)))};
  }
} dequantize{};

/// @error argument_error when cols is no multiple of the format's block, or a number that has to share a scale with
/// others is infinite or not a number
inline constexpr struct quantize_t : operation<quantize_t> {
  static constexpr char const* name = "quantize";
  static profile::work work(quantize_args const& a) {
    weight_view const out{a.format, nullptr, a.rows, a.cols};
    return {0, double(a.rows) * double(out.row_bytes() + a.cols * index_t(sizeof(float)))};
  }
} quantize{};

}  // namespace tenon::ops
