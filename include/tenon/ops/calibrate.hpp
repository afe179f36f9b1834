// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Weights to blocks for the inputs that they will meet: what one column loses, the columns behind it make up for.
///
/// With the second moments H = X^T X of a layer's inputs, the error of its outputs |X (w - q)|^2 of a row of weights is
/// (w - q) H (w - q)^T. Where H = U D U^T with U unit upper triangular, this is the sum over columns of
/// D_k (w_k + sum over j < k of (w_j - q_j) U_jk - q_k)^2, so that each q_k is best near the first two terms: the
/// columns are rounded in order. It is GPTQ without its inverse.
/// @source Frantar et al. 2022, arXiv:2210.17323; Chee et al. 2023, arXiv:2307.13304, theorem 6, for the form
#include <cstddef>

#include <tenon/core/view.hpp>
#include <tenon/core/weight_format.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// out = U of moments + damping * mean(diagonal) I above its diagonal; the rest of `out` has no meaning.
/// @shape moments, out [k,k], rows contiguous
struct input_feedback_args {
  matrix_view<float const> moments;
  matrix_view<double> out;
  double damping = 0.01;  ///< the moments of few inputs say little
};
/// As quantize_args, with what `input_feedback` made of the inputs' moments. Scales of a block are chosen when it is its
/// turn, for the weights that are wanted then. @shape in [rows,cols]  feedback [cols,cols]
struct quantize_for_inputs_args {
  float const* in = nullptr;
  weight_format format = weight_format::q8_0;
  std::byte* out = nullptr;
  index_t rows = 0, cols = 0;
  matrix_view<double const> feedback;
};

/// @error argument_error when shapes differ, or the moments are not finite or all 0
/// @test tests/ops/calibrate_test.cpp
inline constexpr struct input_feedback_t : operation<input_feedback_t> {
  static constexpr char const* name = "input_feedback";
  static profile::work work(input_feedback_args const& a) {
    double const k = double(a.out.extent(0));
    return {k * k * k / 3, k * k * k / 3 * sizeof(double)};
  }
} input_feedback{};

/// @error argument_error when shapes differ, the format is not in blocks, cols is no multiple of its block, or a weight
/// is not finite
/// @test tests/ops/calibrate_test.cpp
inline constexpr struct quantize_for_inputs_t : operation<quantize_for_inputs_t> {
  static constexpr char const* name = "quantize_for_inputs";
  static profile::work work(quantize_for_inputs_args const& a) {
    double const n = double(a.rows) * double(a.cols);
    return {n * double(a.cols), n * sizeof(float)};
  }
} quantize_for_inputs{};

}  // namespace tenon::ops
