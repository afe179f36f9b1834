// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <string>

#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/ops/norm.hpp>

namespace tenon::nn {

/// Layer normalisation over the features of a token. @shape x, y [t, width]  @source Ba et al. 2016, arXiv:1607.06450
struct layer_norm {
  index_t width = 0;
  bool has_bias = true;
  float epsilon = 1e-5f;

  template <class T>
  struct parameters {
    T* weight = nullptr;
    T* bias = nullptr;
  };
  struct saved {
    float* mean = nullptr;
    float* rstd = nullptr;
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.weight = b.vector("weight", width, {0, 1});
    if (has_bias) p.bias = b.vector("bias", width, {});
    return p;
  }
  template <class Pass, class T>
  void forward(Pass& pass, parameters<T const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
    s = {pass.saved.template allocate<float>(x.extent(0)), pass.saved.template allocate<float>(x.extent(0))};
    again(pass, p, x, y, s);
  }
  /// The output once more, from what was saved.
  template <class Pass, class T>
  void again(Pass& pass, parameters<T const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
    ops::layer_norm_forward(pass.exec, ops::layer_norm_forward_args<T>{.x = x,
                                                                       .weight = p.weight,
                                                                       .bias = p.bias,
                                                                       .epsilon = epsilon,
                                                                       .out = y,
                                                                       .mean = s.mean,
                                                                       .rstd = s.rstd});
  }
  /// d_x = add_to + the gradient through the norm; may alias add_to.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved const& s,
                matrix_view<T const> x, matrix_view<T const> d_y, matrix_view<T const> add_to,
                matrix_view<T> d_x) const {
    ops::layer_norm_backward(pass.exec, ops::layer_norm_backward_args<T>{.d_out = d_y,
                                                                         .x = x,
                                                                         .mean = s.mean,
                                                                         .rstd = s.rstd,
                                                                         .weight = p.weight,
                                                                         .d_x = d_x,
                                                                         .add_to = add_to,
                                                                         .d_weight = g.weight,
                                                                         .d_bias = g.bias,
                                                                         .leaf = pass.token_leaf()});
    sum_over_tokens(pass, g.weight, width);
    sum_over_tokens(pass, g.bias, width);
  }
};

/// Root mean square normalisation. @shape x, y [t, width]  @source Zhang and Sennrich 2019, arXiv:1910.07467
struct rms_norm {
  index_t width = 0;
  float epsilon = 1e-5f;

  template <class T>
  struct parameters {
    T* weight = nullptr;
  };
  struct saved {
    float* rstd = nullptr;
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    return {b.vector("weight", width, {0, 1})};
  }
  template <class Pass, class T>
  void forward(Pass& pass, parameters<T const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
    s = {pass.saved.template allocate<float>(x.extent(0))};
    again(pass, p, x, y, s);
  }
  template <class Pass, class T>
  void again(Pass& pass, parameters<T const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
    ops::rms_norm_forward(
        pass.exec,
        ops::rms_norm_forward_args<T>{.x = x, .weight = p.weight, .epsilon = epsilon, .out = y, .rstd = s.rstd});
  }
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved const& s,
                matrix_view<T const> x, matrix_view<T const> d_y, matrix_view<T const> add_to,
                matrix_view<T> d_x) const {
    ops::rms_norm_backward(pass.exec, ops::rms_norm_backward_args<T>{.d_out = d_y,
                                                                     .x = x,
                                                                     .rstd = s.rstd,
                                                                     .weight = p.weight,
                                                                     .d_x = d_x,
                                                                     .add_to = add_to,
                                                                     .d_weight = g.weight,
                                                                     .leaf = pass.token_leaf()});
    sum_over_tokens(pass, g.weight, width);
  }
};

}  // namespace tenon::nn
