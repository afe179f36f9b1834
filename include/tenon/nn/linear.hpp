// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/gemm.hpp>

namespace tenon::nn {

/// What of a matrix tensor parallelism cuts.
enum class matrix_cut { none, outputs, inputs };

/// What is fused behind a product: y = residual + activation(x W^T + b). No activation behind a sum over ranks.
template <class T>
struct epilogue {
  matrix_view<T const> residual{};
  ops::activation_kind activation = ops::activation_kind::none;
  matrix_view<T> pre_activation{};
};

/// y = x W^T and what is fused behind it; sums over the features of x are cut into leaves of `leaf`.
template <class Context, class T, class Y>
void product(Context& exec, matrix_view<T const> x, matrix_view<T const> weight, matrix_view<Y> y, index_t leaf = 0,
             float const* bias = nullptr, epilogue<Y> const& after = {}) {
  ops::gemm(exec, ops::gemm_args<Y, T, T>{.c = y,
                                          .a = x,
                                          .b = transposed(weight),
                                          .leaf = leaf,
                                          .bias = bias,
                                          .activation = after.activation,
                                          .residual = after.residual,
                                          .pre_activation = after.pre_activation});
}

/// y = x W^T + b.
/// Sums over `in` are cut into leaves of `in_leaf` (0: not cut; set it where tensor parallelism cuts the input), those
/// over the output features (the input gradient) by `out_pieces`.
/// Under tensor parallelism a rank holds some output features, and the input gradient is summed over ranks; or some
/// input features, and y is summed. The bias of the latter is on every rank. Where tokens are cut, the side that is not
/// cut along features holds this rank's tokens: it is gathered where it is read.
/// @shape x [t, in]  W [out, in]  b [out]  y [t, out]   @test tests/nn/linear_test.cpp
struct linear {
  index_t in = 0;
  std::vector<row_piece> pieces;  ///< the output features, by name
  bool has_bias = false;
  index_t in_leaf = 0;
  std::vector<ops::k_piece> out_pieces{};  ///< empty: not cut
  float stddev = 0.02f;
  matrix_cut cut = matrix_cut::none;
  column_range columns{};  ///< of the whole matrix, when the inputs are cut

  template <class T>
  struct parameters {
    matrix_of<T> weight;
    vector_of<T> bias = nullptr;
  };
  /// Keeps the output features of one rank: some leaves of each of `out_pieces`.   @error see share_of_rank
  void shard_outputs(int rank, int ranks) {
    if (out_pieces.empty()) out_pieces.push_back({out(), 0});
    for (auto& piece : pieces) piece.whole_rows = piece.rows, piece.rows = 0;
    auto piece = pieces.begin();
    index_t row = 0;  // of the whole piece
    for (auto& k : out_pieces) {
      if (row == piece->whole_rows) ++piece, row = 0;
      auto const share = share_of_rank(piece->name, k.rows, k.leaf, rank, ranks);
      piece->held.push_back({row + share.first, share.count});
      piece->rows += share.count;
      row += k.rows;
      k.rows = share.count;
    }
    cut = matrix_cut::outputs;
  }
  /// Keeps the input features of one rank.   @error see share_of_rank
  void shard_inputs(int rank, int ranks) {
    auto const share = share_of_rank("the input of " + pieces[0].name, in, in_leaf, rank, ranks);
    columns = {share.first, in};
    in = share.count;
    cut = matrix_cut::inputs;
  }
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.weight = b.matrix(pieces, ".weight", in, {stddev}, parameter_kind::matrix, columns);
    if (has_bias) p.bias = b.bias(pieces);
    return p;
  }
  index_t out() const {
    index_t n = 0;
    for (auto const& piece : pieces) n += piece.rows;
    return n;
  }

  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y,
               epilogue<T> const& after = {}) const {
    arena_scope scope(pass.exec.scratch());
    if (pass.tensor_ranks() > 1 && cut == matrix_cut::inputs) {
      if constexpr (std::same_as<W, stored>) p.weight.check_leaf(in_leaf);
      auto const partial = pass.exec.scratch().template allocate_matrix<float>(x.extent(0), out());
      partial_sum(partial, in, [&] { product(pass.exec, x, p.weight, partial, in_leaf); });
      return sum_over_tensor_ranks(pass, as_const(partial), y, pass.as_float(p.bias, out()), after.residual);
    }
    product(pass.exec, gathered(pass, x, matrix_cut::outputs), p.weight, y, in_leaf, pass.as_float(p.bias, out()),
            after);
  }

  /// Overwrites the parameter gradients (unless there is none for the weight) and d_x (unless it is empty).
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, matrix_view<T const> x,
                matrix_view<T const> d_y, matrix_view<T> d_x) const {
    arena_scope scope(pass.exec.scratch());
    auto const all_x = gathered(pass, x, matrix_cut::outputs);
    d_y = gathered(pass, d_y, matrix_cut::inputs);
    if (!g.weight.empty() || g.bias)
      pass.weight_gradients([g, leaf = pass.token_leaf(), x = pass.for_later(all_x, all_x.data() == x.data()),
                             d_y = pass.for_later(d_y, false)](auto& exec, index_t moved) {
        if (auto const w = moved_by(g.weight, moved); !w.empty())
          ops::gemm(exec, ops::gemm_args<float, T, T>{.c = w, .a = transposed(d_y), .b = x, .leaf = leaf});
        if (g.bias) ops::column_sum(exec, ops::column_sum_args<T>{.x = d_y, .out = g.bias + moved, .leaf = leaf});
      });
    if (d_x.empty()) return;
    if (pass.tensor_ranks() > 1 && cut == matrix_cut::outputs) {
      auto const partial = pass.exec.scratch().template allocate_matrix<float>(d_y.extent(0), in);
      partial_sum(partial, out(), [&] {
        ops::gemm(pass.exec, ops::gemm_args<float, T, T>{.c = partial, .a = d_y, .b = p.weight, .pieces = out_pieces});
      });
      return sum_over_tensor_ranks(pass, as_const(partial), d_x);
    }
    ops::gemm(pass.exec, ops::gemm_args<T, T, T>{.c = d_x, .a = d_y, .b = p.weight, .pieces = out_pieces});
  }

 private:
  /// All tokens of what is not cut along features when the matrix is cut as `side`.
  template <class Pass, class T>
  matrix_view<T const> gathered(Pass& pass, matrix_view<T const> m, matrix_cut side) const {
    return cut == side ? all_tokens(pass, m) : m;
  }
};

}  // namespace tenon::nn
