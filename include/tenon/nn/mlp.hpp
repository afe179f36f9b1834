// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/nn/linear.hpp>
#include <tenon/ops/activation.hpp>

namespace tenon::nn {

/// Two linear layers with an activation between them; gated: the first one gives a gate and a value (SwiGLU, GeGLU).
/// @shape x, y [t, width]   @source Shazeer 2020, arXiv:2002.05202 (gated)   @test tests/nn/mlp_test.cpp
struct mlp {
  ops::activation_kind activation = ops::activation_kind::gelu_tanh;
  bool gated = false;
  linear up{};  ///< to `hidden` features, or to gate and value (pieces gate, value)
  linear down{};

  template <class T>
  struct parameters {
    linear::parameters<T> up, down;
  };
  template <class T>
  struct saved {
    matrix_view<T> pre_activation;  ///< [t, hidden], or [t, 2 hidden] when gated
    matrix_view<T> hidden;          ///< [t, hidden]; empty when the memory policy recomputes it
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    auto const first = up.bind(b);
    return {first, down.bind(b)};
  }
  /// Keeps the hidden features of one rank of tensor parallelism.
  void shard(int rank, int ranks) {
    up.shard_outputs(rank, ranks);
    down.shard_inputs(rank, ranks);
  }

  /// Weights that one token meets.
  double active_weights() const { return double(up.in * up.out() + down.in * down.out()); }

  /// y = residual + mlp(x)
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T const> residual,
               matrix_view<T> y, saved<T>& s) const {
    arena_scope scope(pass.exec.scratch());
    s.pre_activation = pass.template allocate<T>(up.out(), true);
    auto const hidden = pass.template allocate<T>(down.in, Pass::keeps_everything);
    s.hidden = Pass::keeps_everything ? hidden : matrix_view<T>{};
    if (gated) {
      up.forward(pass, p.up, x, s.pre_activation);
      activate(pass, s, hidden);
    } else {
      up.forward(pass, p.up, x, hidden, {.activation = activation, .pre_activation = s.pre_activation});
    }
    down.forward(pass, p.down, as_const(hidden), y, {.residual = residual});
  }

  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T> const& s,
                matrix_view<T const> x, matrix_view<T const> d_y, matrix_view<T> d_x) const {
    arena_scope scope(pass.exec.scratch());
    auto hidden = s.hidden;
    if (hidden.empty()) {
      hidden = pass.template allocate<T>(down.in, false);
      activate(pass, s, hidden);
    }
    auto const d_hidden = pass.template allocate<T>(down.in, false);
    down.backward(pass, p.down, g.down, as_const(hidden), d_y, d_hidden);
    auto const d_pre = gated ? pass.template allocate<T>(up.out(), false) : d_hidden;
    if (gated)
      ops::gated_activation_backward(pass.exec, ops::gated_activation_backward_args<T>{.gate_up = s.pre_activation,
                                                                                       .d_out = d_hidden,
                                                                                       .d_gate_up = d_pre,
                                                                                       .kind = activation});
    else
      ops::activation_backward(
          pass.exec,
          ops::activation_backward_args<T>{.x = s.pre_activation, .d_out = d_hidden, .d_x = d_pre, .kind = activation});
    up.backward(pass, p.up, g.up, x, as_const(d_pre), d_x);
  }

 private:
  template <class Pass, class T>
  void activate(Pass& pass, saved<T> const& s, matrix_view<T> hidden) const {
    if (gated)
      ops::gated_activation_forward(
          pass.exec,
          ops::gated_activation_forward_args<T>{.gate_up = s.pre_activation, .out = hidden, .kind = activation});
    else
      ops::activation_forward(
          pass.exec, ops::activation_forward_args<T>{.x = s.pre_activation, .out = hidden, .kind = activation});
  }
};

}  // namespace tenon::nn
