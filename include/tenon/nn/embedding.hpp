// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <string>

#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/ops/embedding.hpp>

namespace tenon::nn {

/// x = table[token] (+ positions[position] when `max_positions` is not 0).
/// The token table is a bucket of its own: a head may share it.
/// @shape tokens [t]  table [vocabulary, width]  positions [max_positions, width]  x [t, width]
struct token_embedding {
  std::string token_name, position_name;
  index_t vocabulary = 0, width = 0, max_positions = 0;
  float stddev = 0.02f;

  template <class T>
  struct parameters {
    matrix_view<T> tokens;
    matrix_view<T> positions;
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.tokens = b.matrix({{token_name, vocabulary}}, ".weight", width, {stddev}, parameter_kind::embedding);
    b.bucket();
    if (max_positions)
      p.positions = b.matrix({{position_name, max_positions}}, ".weight", width, {stddev}, parameter_kind::embedding);
    return p;
  }
  template <class Pass, class T>
  void forward(Pass& pass, parameters<T const> const& p, std::span<std::int32_t const> tokens, matrix_view<T> x) const {
    ops::embedding_forward(pass.exec, ops::embedding_forward_args<T>{.tokens = tokens,
                                                                     .table = p.tokens,
                                                                     .position_table = p.positions,
                                                                     .positions = pass.positions,
                                                                     .out = x});
  }
  /// The token table's gradient goes to `token_gradient`: added to it when `accumulate` (it holds the gradient of a
  /// head that shares the table), else written over it. The positions' gradient is overwritten.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<float> const& g, std::span<std::int32_t const> tokens, matrix_view<T const> d_x,
                matrix_view<float> token_gradient, bool accumulate) const {
    index_t const leaf = pass.token_leaf();
    ops::embedding_backward(pass.exec, ops::embedding_backward_args<T>{.tokens = tokens,
                                                                       .d_out = d_x,
                                                                       .d_table = token_gradient,
                                                                       .leaf = leaf,
                                                                       .accumulate = accumulate});
    if (!max_positions) return;
    arena_scope scope(pass.exec.scratch());
    std::int32_t* const rows = pass.exec.scratch().template allocate<std::int32_t>(pass.tokens());
    for (index_t t = 0; t < pass.tokens(); ++t) rows[t] = std::int32_t(pass.positions[std::size_t(t)]);
    ops::embedding_backward(pass.exec, ops::embedding_backward_args<T>{.tokens = {rows, std::size_t(pass.tokens())},
                                                                       .d_out = d_x,
                                                                       .d_table = g.positions,
                                                                       .leaf = leaf,
                                                                       .accumulate = false});
  }
};

}  // namespace tenon::nn
