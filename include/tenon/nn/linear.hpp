// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/gemm.hpp>

namespace tenon::nn {

/// y = x W^T + b.
/// Sums over `in` are cut into leaves of `in_leaf` (0: not cut; set it where tensor parallelism cuts the input), those
/// over the output features (the input gradient) by `out_pieces`.
/// @shape x [t, in]  W [out, in]  b [out]  y [t, out]   @test tests/nn/linear_test.cpp
struct linear {
  index_t in = 0;
  std::vector<row_piece> pieces;  ///< the output features, by name
  bool has_bias = false;
  index_t in_leaf = 0;
  std::vector<ops::k_piece> out_pieces{};  ///< empty: not cut
  float stddev = 0.02f;

  template <class T>
  struct parameters {
    matrix_view<T> weight;
    T* bias = nullptr;
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.weight = b.matrix(pieces, ".weight", in, {stddev});
    if (has_bias) p.bias = b.bias(pieces);
    return p;
  }
  index_t out() const {
    index_t n = 0;
    for (auto const& piece : pieces) n += piece.rows;
    return n;
  }

  /// What is fused behind the product: y = residual + activation(x W^T + b).
  template <class T>
  struct epilogue {
    matrix_view<T const> residual{};
    ops::activation_kind activation = ops::activation_kind::none;
    matrix_view<T> pre_activation{};
  };
  template <class Pass, class T>
  void forward(Pass& pass, parameters<T const> const& p, matrix_view<T const> x, matrix_view<T> y,
               epilogue<T> const& after = {}) const {
    arena_scope scope(pass.exec.scratch());
    ops::gemm(pass.exec, ops::gemm_args<T, T, T>{.c = y,
                                                 .a = x,
                                                 .b = transposed(p.weight),
                                                 .leaf = in_leaf,
                                                 .bias = pass.as_float(p.bias, out()),
                                                 .activation = after.activation,
                                                 .residual = after.residual,
                                                 .pre_activation = after.pre_activation});
  }

  /// Overwrites the parameter gradients (unless there is none for the weight) and d_x (unless it is empty).
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, matrix_view<T const> x,
                matrix_view<T const> d_y, matrix_view<T> d_x) const {
    index_t const leaf = pass.token_leaf();
    if (!g.weight.empty())
      ops::gemm(pass.exec, ops::gemm_args<float, T, T>{.c = g.weight, .a = transposed(d_y), .b = x, .leaf = leaf});
    if (has_bias) ops::column_sum(pass.exec, ops::column_sum_args<T>{.x = d_y, .out = g.bias, .leaf = leaf});
    if (d_x.empty()) return;
    ops::gemm(pass.exec, ops::gemm_args<T, T, T>{.c = d_x, .a = d_y, .b = p.weight, .pieces = out_pieces});
  }
};

}  // namespace tenon::nn
