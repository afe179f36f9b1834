// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <string>

#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/ops/norm.hpp>

namespace tenon::nn {

namespace detail {
/// Where a norm's backward, which makes all gradients at once, puts one of its weights: its place, or memory from where it
/// goes there later.
template <class Pass>
float* norm_gradient(Pass& pass, float* place, index_t width) {
  if (!pass.deferred || !place) return place;
  float* const made = pass.deferred->memory.template allocate<float>(width);
  pass.weight_gradients([=](auto&, index_t moved) { std::copy_n(made, width, place + moved); });
  return made;
}
}  // namespace detail

/// Layer normalisation over the features of a token. @shape x, y [t, width]  @source Ba et al. 2016, arXiv:1607.06450
struct layer_norm {
  index_t width = 0;
  bool has_bias = true;
  float epsilon = 1e-5f;

  template <class T>
  struct parameters {
    vector_of<T> weight = nullptr;
    vector_of<T> bias = nullptr;
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
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
    s = {pass.saved.template allocate<float>(x.extent(0)), pass.saved.template allocate<float>(x.extent(0))};
    again(pass, p, x, y, s);
  }
  /// The output once more, from what was saved.
  template <class Pass, class W, class T>
  void again(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
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
    float* const d_weight = detail::norm_gradient(pass, g.weight, width);
    float* const d_bias = detail::norm_gradient(pass, g.bias, width);
    ops::layer_norm_backward(pass.exec, ops::layer_norm_backward_args<T>{.d_out = d_y,
                                                                         .x = x,
                                                                         .mean = s.mean,
                                                                         .rstd = s.rstd,
                                                                         .weight = p.weight,
                                                                         .d_x = d_x,
                                                                         .add_to = add_to,
                                                                         .d_weight = d_weight,
                                                                         .d_bias = d_bias,
                                                                         .leaf = pass.token_leaf()});
    sum_over_tokens(pass, d_weight, width);
    sum_over_tokens(pass, d_bias, width);
  }
};

/// Root mean square normalisation. @shape x, y [t, width]  @source Zhang and Sennrich 2019, arXiv:1910.07467
struct rms_norm {
  index_t width = 0;
  float epsilon = 1e-5f;

  template <class T>
  struct parameters {
    vector_of<T> weight = nullptr;
  };
  struct saved {
    float* rstd = nullptr;
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    return {b.vector("weight", width, {0, 1})};
  }
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
    s = {pass.saved.template allocate<float>(x.extent(0))};
    again(pass, p, x, y, s);
  }
  template <class Pass, class W, class T>
  void again(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved& s) const {
    ops::rms_norm_forward(
        pass.exec,
        ops::rms_norm_forward_args<T>{.x = x, .weight = p.weight, .epsilon = epsilon, .out = y, .rstd = s.rstd});
  }
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved const& s,
                matrix_view<T const> x, matrix_view<T const> d_y, matrix_view<T const> add_to,
                matrix_view<T> d_x) const {
    float* const d_weight = detail::norm_gradient(pass, g.weight, width);
    ops::rms_norm_backward(pass.exec, ops::rms_norm_backward_args<T>{.d_out = d_y,
                                                                     .x = x,
                                                                     .rstd = s.rstd,
                                                                     .weight = p.weight,
                                                                     .d_x = d_x,
                                                                     .add_to = add_to,
                                                                     .d_weight = d_weight,
                                                                     .leaf = pass.token_leaf()});
    sum_over_tokens(pass, d_weight, width);
  }
};

}  // namespace tenon::nn
