// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <optional>
#include <string>

#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/ops/embedding.hpp>

namespace tenon::nn {

/// x = scale table[token] (+ positions[position] when `max_positions` is not 0).
/// The token table is a bucket of its own: a head may share it. Tensor parallelism cuts it along the vocabulary, in the
/// leaves in which a head sums over it; positions are on every rank.
/// Where tokens are cut, x and d_x are this rank's.
/// @shape tokens [t]  table [vocabulary, width]  positions [max_positions, width]  x [t, width]
struct token_embedding {
  std::string token_name, position_name;
  index_t vocabulary = 0, width = 0, max_positions = 0;
  float scale = 1;
  float stddev = 0.02f;
  std::optional<row_range> held{};  ///< which rows of token tables a rank has; nothing: all

  template <class T>
  struct parameters {
    matrix_of<T> tokens;
    matrix_of<T> positions;
  };
  /// Keeps the rows of one rank of tensor parallelism.   @error see share_of_rank
  void shard(int rank, int ranks) { held = share(rank, ranks); }
  row_range share(int rank, int ranks) const {
    return share_of_rank("the vocabulary", vocabulary, reduction_order::feature_leaf(vocabulary), rank, ranks);
  }
  index_t first_row() const { return held ? held->first : 0; }
  /// A table of the tokens of this rank [rows, width].
  template <class T>
  matrix_of<T> table(binder<T>& b, std::string const& name) const {
    row_piece const rows = held ? row_piece{name, held->count, {*held}, vocabulary} : row_piece{name, vocabulary};
    return b.matrix({rows}, ".weight", width, {stddev}, parameter_kind::embedding);
  }
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.tokens = table(b, token_name);
    b.bucket();
    if (max_positions)
      p.positions = b.matrix({{position_name, max_positions}}, ".weight", width, {stddev}, parameter_kind::embedding);
    return p;
  }
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, std::span<std::int32_t const> tokens, matrix_view<T> x) const {
    if constexpr (std::same_as<W, stored>) {
      p.tokens.look_up(pass.exec, tokens, p.positions, pass.positions, x, scale);
    } else {
      if (pass.tensor_ranks() > 1) return sum_of_tables(pass, p, tokens, x);
      ops::embedding_forward(pass.exec, ops::embedding_forward_args<T>{.tokens = tokens,
                                                                       .table = p.tokens,
                                                                       .position_table = p.positions,
                                                                       .positions = pass.positions,
                                                                       .out = x,
                                                                       .scale = scale});
    }
  }
  /// The token table's gradient goes to `token_gradient`: added to it when `accumulate` (it holds the gradient of a
  /// head that shares the table), else written over it. The positions' gradient is overwritten.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<float> const& g, std::span<std::int32_t const> tokens, matrix_view<T const> d_x,
                matrix_view<float> token_gradient, bool accumulate) const {
    arena_scope scope(pass.exec.scratch());
    d_x = all_tokens(pass, d_x);
    index_t const leaf = pass.token_leaf();
    ops::embedding_backward(pass.exec, ops::embedding_backward_args<T>{.tokens = tokens,
                                                                       .d_out = d_x,
                                                                       .d_table = token_gradient,
                                                                       .leaf = leaf,
                                                                       .accumulate = accumulate,
                                                                       .first_row = first_row(),
                                                                       .vocabulary = vocabulary});
    if (!max_positions) return;
    ops::embedding_backward(pass.exec, ops::embedding_backward_args<T>{.tokens = position_rows(pass),
                                                                       .d_out = d_x,
                                                                       .d_table = g.positions,
                                                                       .leaf = leaf,
                                                                       .accumulate = false});
  }

 private:
  /// The positions as rows of their table, in scratch.
  template <class Pass>
  static std::span<std::int32_t const> position_rows(Pass& pass) {
    std::span const rows(pass.exec.scratch().template allocate<std::int32_t>(pass.tokens()),
                         std::size_t(pass.tokens()));
    for (std::size_t t = 0; t < rows.size(); ++t) rows[t] = std::int32_t(pass.positions[t]);
    return rows;
  }
  /// Every rank gives the rows that it has and -0 for others; positions are added behind the sum, as on one rank.
  template <class Pass, class T>
  void sum_of_tables(Pass& pass, parameters<T const> const& p, std::span<std::int32_t const> tokens,
                     matrix_view<T> x) const {
    arena_scope scope(pass.exec.scratch());
    auto const rows = pass.template allocate<float>(width, false);
    ops::embedding_forward(pass.exec, ops::embedding_forward_args<T, float>{.tokens = tokens,
                                                                            .table = p.tokens,
                                                                            .out = rows,
                                                                            .scale = scale,
                                                                            .first_row = first_row(),
                                                                            .vocabulary = vocabulary});
    if (max_positions)
      ops::embedding_forward(
          pass.exec, ops::embedding_forward_args<T>{.tokens = position_rows(pass).subspan(
                                                        std::size_t(pass.own_tokens().first), std::size_t(x.extent(0))),
                                                    .table = p.positions,
                                                    .out = x});
    sum_over_tensor_ranks(pass, as_const(rows), x, nullptr, max_positions ? as_const(x) : matrix_view<T const>{});
  }
};

}  // namespace tenon::nn
