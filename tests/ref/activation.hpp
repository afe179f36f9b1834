// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Activation functions in double.
#include <cmath>

#include <tenon/ops/gemm.hpp>

namespace ref {

inline double activation(tenon::ops::activation_kind kind, double x) {
  using enum tenon::ops::activation_kind;
  switch (kind) {
    case gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case gelu_erf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case silu: return x / (1 + std::exp(-x));
    case relu: return x > 0 ? x : 0;
    case none: break;
  }
  return x;
}
inline double activation_derivative(tenon::ops::activation_kind kind, double x) {
  double const h = 1e-5;
  return (activation(kind, x + h) - activation(kind, x - h)) / (2 * h);
}

}  // namespace ref
