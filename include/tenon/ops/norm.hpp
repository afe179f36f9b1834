// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Layer and root-mean-square normalisation of rows, forward and backward.
///
/// Order of arithmetic: sums along a row run over 16 lanes (element i in lane i mod 16), then the fixed tree of lanes;
/// sums over tokens are chains of fused multiply-adds in leaves of `leaf` tokens (0: one leaf), then the tree over
/// leaves.
#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// out = (x - mean) rstd weight + bias, with rstd = 1 / sqrt(variance + epsilon); the variance is taken in a second
/// pass around the mean. @shape x, out [t,c] (out may alias x)  weight, bias [c] or null (1, 0)  mean, rstd [t] or null
template <class T>
struct layer_norm_forward_args {
  matrix_view<T const> x;
  T const* weight = nullptr;
  T const* bias = nullptr;
  float epsilon = 1e-5f;
  matrix_view<T> out;
  float* mean = nullptr;
  float* rstd = nullptr;
};
/// d_x = add_to + the gradient through the norm; d_weight and d_bias are overwritten, or added to when `accumulate`.
/// @shape d_out, x, d_x, add_to [t,c] (add_to may be empty; d_x may alias any)  weight, d_weight, d_bias [c] or null
template <class T>
struct layer_norm_backward_args {
  matrix_view<T const> d_out;
  matrix_view<T const> x;
  float const* mean = nullptr;
  float const* rstd = nullptr;
  T const* weight = nullptr;
  matrix_view<T> d_x;
  matrix_view<T const> add_to{};
  float* d_weight = nullptr;
  float* d_bias = nullptr;
  index_t leaf = 0;
  bool accumulate = false;
};
/// out = x rstd (weight + weight_offset), with rstd = 1 / sqrt(mean of x^2 + epsilon); Gemma's offset is 1.
/// @shape x, out [t,c] (out may alias x)  weight [c] or null (1, without the offset)  rstd [t] or null
template <class T>
struct rms_norm_forward_args {
  matrix_view<T const> x;
  T const* weight = nullptr;
  float epsilon = 1e-6f;
  matrix_view<T> out;
  float* rstd = nullptr;
  float weight_offset = 0.0f;
};
/// As layer_norm_backward_args, without mean and bias.
template <class T>
struct rms_norm_backward_args {
  matrix_view<T const> d_out;
  matrix_view<T const> x;
  float const* rstd = nullptr;
  T const* weight = nullptr;
  matrix_view<T> d_x;
  matrix_view<T const> add_to{};
  float* d_weight = nullptr;
  index_t leaf = 0;
  float weight_offset = 0.0f;
  bool accumulate = false;
};

/// @error argument_error when shapes differ
/// @source Ba et al. 2016, "Layer normalization", arXiv:1607.06450   @test tests/ops/norm_test.cpp
inline constexpr struct layer_norm_forward_t : operation<layer_norm_forward_t> {
  static constexpr char const* name = "layer_norm_forward";
  template <class T>
  static profile::work work(layer_norm_forward_args<T> const& a) {
    double const n = double(a.x.size());
    return {8 * n, 2 * n * sizeof(T)};
  }
} layer_norm_forward{};

inline constexpr struct layer_norm_backward_t : operation<layer_norm_backward_t> {
  static constexpr char const* name = "layer_norm_backward";
  template <class T>
  static profile::work work(layer_norm_backward_args<T> const& a) {
    double const n = double(a.x.size());
    return {17 * n, (3 + !a.add_to.empty()) * n * sizeof(T)};
  }
} layer_norm_backward{};

/// @source Zhang, Sennrich 2019, "Root mean square layer normalization", arXiv:1910.07467
inline constexpr struct rms_norm_forward_t : operation<rms_norm_forward_t> {
  static constexpr char const* name = "rms_norm_forward";
  template <class T>
  static profile::work work(rms_norm_forward_args<T> const& a) {
    double const n = double(a.x.size());
    return {4 * n, 2 * n * sizeof(T)};
  }
} rms_norm_forward{};

inline constexpr struct rms_norm_backward_t : operation<rms_norm_backward_t> {
  static constexpr char const* name = "rms_norm_backward";
  template <class T>
  static profile::work work(rms_norm_backward_args<T> const& a) {
    double const n = double(a.x.size());
    return {12 * n, (3 + !a.add_to.empty()) * n * sizeof(T)};
  }
} rms_norm_backward{};

}  // namespace tenon::ops
