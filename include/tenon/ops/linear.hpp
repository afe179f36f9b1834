// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Products with weights as a file holds them, numbers or blocks of small integers, and rows of such a table.
///
/// Order of arithmetic. Weights that are numbers: `gemm`'s, with W^T as b. Weights in blocks meet activations that are
/// quantized first, 32 at a time (`quantized_block`), and each output is, per leaf of `leaf` values of a row (0: one
/// leaf; a multiple of 32), one chain of fused multiply-adds from +0 over the groups of 32 values in order:
///
///     sum = fma(dot, d_w d_x, sum)         dot: the products of 32 integers, added exactly, then rounded to fp32
///     sum = fma(minimum, d_x q_x, sum)     in formats with a minimum; q_x: the sum of the activation's integers
///
/// d_w is the group's scale: the block's times, in Q4_K and Q5_K, the integer of the group (exact in fp32); likewise
/// the minimum, with its sign. In Q6_K, Q3_K and Q2_K, whose integers scale 16 values, dot is the exact sum of both
/// halves times theirs, and a minimum makes one step per half. Both factors d_w d_x and d_x q_x are rounded once. Leaves
/// are combined by the fixed tree; then come bias, activation and residual as in `gemm`.
/// Nothing depends on the other rows, on threads or on the instruction set.
#include <cstdint>
#include <span>

#include <tenon/core/weight_format.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// 32 activations as integers times one scale: amax / 127 of the largest magnitude, values rounded to nearest even of
/// x (127 / amax). Where amax is below 2^-100, all is 0; where one is not finite, the scale is NaN.
struct quantized_block {
  static constexpr index_t size = 32;
  std::int8_t values[size];
  float scale;
  float scaled_sum;      ///< scale times the sum of the values
  std::int16_t sums[2];  ///< of the values of each half
};

/// @shape x [t,k]  out [t, k / 32]
struct quantize_rows_args {
  matrix_view<float const> x;
  matrix_view<quantized_block> out;
};
/// What `linear` does first with weights in blocks; by itself where several products have the same input.
/// @error argument_error when shapes differ or k is not a multiple of 32   @test tests/ops/linear_test.cpp
inline constexpr struct quantize_rows_t : operation<quantize_rows_t> {
  static constexpr char const* name = "quantize_rows";
  static profile::work work(quantize_rows_args const& a) {
    double const n = double(a.x.size());
    return {4 * n, n * (sizeof(float) + double(sizeof(quantized_block)) / quantized_block::size)};
  }
} quantize_rows{};

/// y = residual + activation(x W^T + bias). W is `weight` and what is `below` it, one piece below the other, all in blocks
/// or all numbers: q, k and v of one projection, each in a format of its own, are read by all threads as one.
/// @shape x [t,k]  weight [n,k]  y, residual [t,n]  bias [n] or null  quantized [t, k / 32]: x, or empty
struct linear_args {
  matrix_view<float const> x;
  weight_view weight;
  std::span<weight_view const> below{};
  matrix_view<float> y;
  index_t leaf = 0;
  float const* bias = nullptr;
  activation_kind activation = activation_kind::none;
  matrix_view<float const> residual{};  ///< added when not empty
  matrix_view<quantized_block const> quantized{};
};
/// @error argument_error when shapes differ, pieces are of both kinds, or weights are in blocks and the leaf is not a multiple
/// of 32
/// @test tests/ops/linear_test.cpp
inline constexpr struct linear_t : operation<linear_t> {
  static constexpr char const* name = "linear";
  static profile::work work(linear_args const& a) {
    double const t = double(a.y.extent(0)), n = double(a.y.extent(1)), k = double(a.weight.cols);
    double bytes = double(a.weight.rows * a.weight.row_bytes());
    for (auto const& piece : a.below) bytes += double(piece.rows * piece.row_bytes());
    return {2 * t * n * k, bytes + sizeof(float) * t * (k + n)};
  }
} linear{};

/// out[i] = scale * table[tokens[i]]: weights in blocks become fp32, rounded once where they have a minimum and exact
/// where not, and the product is rounded once.
/// @shape tokens [t]  table [v,c]  out [t,c]
struct table_rows_args {
  std::span<std::int32_t const> tokens;
  weight_view table;
  matrix_view<float> out;
  float scale = 1.0f;
};
/// @error argument_error when shapes differ or a token is not a row of the table   @test tests/ops/linear_test.cpp
inline constexpr struct table_rows_t : operation<table_rows_t> {
  static constexpr char const* name = "table_rows";
  static profile::work work(table_rows_args const& a) {
    return {double(a.out.size()),
            double(a.tokens.size()) * double(a.table.row_bytes()) + sizeof(float) * double(a.out.size())};
  }
} table_rows{};

}  // namespace tenon::ops
