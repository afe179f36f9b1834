// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Rows of a table by number, and their gradient.
#include <cstdint>
#include <span>

#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// out[i] = scale * table[tokens[i]] + position_table[positions[i]], one fused multiply-add an element.
/// A rank may hold rows [first_row, first_row + v) of `vocabulary` only: where the token is another's, out is -0, which
/// changes no sum over ranks (with no positions, and a scale that is not negative).
/// @shape tokens [t]  table [v,c]  position_table [max,c] or empty  positions [t] (unless it is empty)  out [t,c]
template <class T, class Out = T>
struct embedding_forward_args {
  std::span<std::int32_t const> tokens;
  matrix_view<T const> table;
  matrix_view<T const> position_table{};
  std::span<index_t const> positions{};
  matrix_view<Out> out;
  float scale = 1.0f;
  index_t first_row = 0;
  index_t vocabulary = 0;  ///< of all ranks; 0: v
};
/// d_table[row] += (or =, untouched rows becoming 0, unless `accumulate`) the sum of d_out over the tokens equal to
/// row: per leaf of `leaf` tokens (0: one leaf) a chain of additions from +0 in token order, then the fixed tree over
/// the leaf index, in which leaves without the row are absent. Tokens of other ranks' rows are left out.
/// @shape tokens [t]  d_out [t,c]  d_table [v,c]
template <class T>
struct embedding_backward_args {
  std::span<std::int32_t const> tokens;
  matrix_view<T const> d_out;
  matrix_view<float> d_table;
  index_t leaf = 0;
  bool accumulate = true;
  index_t first_row = 0;
  index_t vocabulary = 0;  ///< of all ranks; 0: v
};

/// @error argument_error when shapes differ or a token or position is not a row of its table
/// @test tests/ops/embedding_test.cpp
inline constexpr struct embedding_forward_t : operation<embedding_forward_t> {
  static constexpr char const* name = "embedding_forward";
  template <class T, class Out>
  static profile::work work(embedding_forward_args<T, Out> const& a) {
    double const n = double(a.out.size());
    return {2 * n, n * double((1 + !a.position_table.empty()) * sizeof(T) + sizeof(Out))};
  }
} embedding_forward{};

inline constexpr struct embedding_backward_t : operation<embedding_backward_t> {
  static constexpr char const* name = "embedding_backward";
  template <class T>
  static profile::work work(embedding_backward_args<T> const& a) {
    double const n = double(a.d_out.size());
    return {n, n * (sizeof(T) + 2 * sizeof(float)) + (a.accumulate ? 0.0 : double(a.d_table.size()) * sizeof(float))};
  }
} embedding_backward{};

}  // namespace tenon::ops
