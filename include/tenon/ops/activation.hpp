// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Activation functions, plain and gated. The kinds are gemm's, where they can be fused.
#include <tenon/core/view.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// out = activation(x). @shape x, out [t,c]; out may alias x
template <class T>
struct activation_forward_args {
  matrix_view<T const> x;
  matrix_view<T> out;
  activation_kind kind = activation_kind::none;
};
/// d_x = d_out activation'(x). @shape x (what went in), d_out, d_x [t,c]; d_x may alias d_out or x
template <class T>
struct activation_backward_args {
  matrix_view<T const> x;
  matrix_view<T const> d_out;
  matrix_view<T> d_x;
  activation_kind kind = activation_kind::none;
};
/// out = activation(gate) * up: SwiGLU with silu, GeGLU with gelu. @shape gate_up [t,2f] (gate, then up)  out [t,f]
template <class T>
struct gated_activation_forward_args {
  matrix_view<T const> gate_up;
  matrix_view<T> out;
  activation_kind kind = activation_kind::silu;
};
/// @shape gate_up, d_gate_up [t,2f]  d_out [t,f]; d_gate_up may alias gate_up
template <class T>
struct gated_activation_backward_args {
  matrix_view<T const> gate_up;
  matrix_view<T const> d_out;
  matrix_view<T> d_gate_up;
  activation_kind kind = activation_kind::silu;
};

/// @error argument_error when shapes differ
/// @source gelu: Hendrycks, Gimpel 2016, arXiv:1606.08415; silu: Elfwing et al. 2017, arXiv:1702.03118
/// @test tests/ops/activation_test.cpp
inline constexpr struct activation_forward_t : operation<activation_forward_t> {
  static constexpr char const* name = "activation_forward";
  template <class T>
  static profile::work work(activation_forward_args<T> const& a) {
    double const n = double(a.x.size());
    return {10 * n, 2 * n * sizeof(T)};
  }
} activation_forward{};

inline constexpr struct activation_backward_t : operation<activation_backward_t> {
  static constexpr char const* name = "activation_backward";
  template <class T>
  static profile::work work(activation_backward_args<T> const& a) {
    double const n = double(a.x.size());
    return {15 * n, 3 * n * sizeof(T)};
  }
} activation_backward{};

/// @source Shazeer 2020, "GLU variants improve transformer", arXiv:2002.05202
inline constexpr struct gated_activation_forward_t : operation<gated_activation_forward_t> {
  static constexpr char const* name = "gated_activation_forward";
  template <class T>
  static profile::work work(gated_activation_forward_args<T> const& a) {
    double const n = double(a.out.size());
    return {11 * n, 3 * n * sizeof(T)};
  }
} gated_activation_forward{};

inline constexpr struct gated_activation_backward_t : operation<gated_activation_backward_t> {
  static constexpr char const* name = "gated_activation_backward";
  template <class T>
  static profile::work work(gated_activation_backward_args<T> const& a) {
    double const n = double(a.d_out.size());
    return {26 * n, 5 * n * sizeof(T)};
  }
} gated_activation_backward{};

}  // namespace tenon::ops
