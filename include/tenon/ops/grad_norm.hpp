// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The Euclidean norm of all gradients, exact up to one rounding per sixteen elements, in no order.
#include <span>

#include <tenon/core/reduction_order.hpp>
#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// A gradient, or the rows of it that a rank holds. @shape p [rows, cols], dense
struct norm_part {
  float const* p = nullptr;
  index_t rows = 0;
  index_t cols = 0;
};
/// Each sixteen consecutive elements of a row give one double (exact squares, lanes combined by the tree of
/// `simd::reduce_add`, tails filled with 0); these are added by `exact_sum`. So the value does not depend on how rows
/// are shared among threads or ranks. NaN or infinity anywhere makes the norm NaN or infinite.
struct grad_norm_args {
  std::span<norm_part const> parts;
  double* result = nullptr;      ///< receives the square root of the sum, when not null
  exact_sum* squares = nullptr;  ///< the sum is added to it, when not null: what ranks combine
};

/// @source Kulisch 2013 (the long accumulator); Demmel, Nguyen 2015, "Parallel reproducible summation" (the extraction)
/// @test tests/ops/grad_norm_test.cpp
inline constexpr struct grad_norm_t : operation<grad_norm_t> {
  static constexpr char const* name = "grad_norm";
  static profile::work work(grad_norm_args const& a) {
    double n = 0;
    for (auto const& part : a.parts) n += double(part.rows) * double(part.cols);
    return {2 * n, n * sizeof(float)};
  }
} grad_norm{};

}  // namespace tenon::ops
