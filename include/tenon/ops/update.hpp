// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Optimizer steps, fused: state, fp32 parameter and rounded copy in one pass.
///
/// Every rule sees g = gradient * gradient_scale and decays as parameter (1 - learning_rate weight_decay) - ... ; each
/// line below is one fused multiply-add an element. `storage`, when not null, receives the parameter rounded to T.
#include <cmath>

#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
/// parameter = decayed - learning_rate / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
/// @shape all [n]  @param step 1-based  @source Loshchilov, Hutter 2017, arXiv:1711.05101
template <class T>
struct adamw_update_args {
  float* parameter = nullptr;
  float const* gradient = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  T* storage = nullptr;
  index_t n = 0;
  float learning_rate = 1e-3f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float epsilon = 1e-8f;
  float weight_decay = 0.0f;
  index_t step = 1;
  float gradient_scale = 1.0f;
};
/// parameter = decayed - learning_rate sign(beta1 m + (1 - beta1) g), with sign(0) = 0;  m = beta2 m + (1 - beta2) g
/// @shape all [n]  @source Chen et al. 2023, arXiv:2302.06675
template <class T>
struct lion_update_args {
  float* parameter = nullptr;
  float const* gradient = nullptr;
  float* m = nullptr;
  T* storage = nullptr;
  index_t n = 0;
  float learning_rate = 1e-4f;
  float beta1 = 0.9f;
  float beta2 = 0.99f;
  float weight_decay = 0.0f;
  float gradient_scale = 1.0f;
};
/// m = momentum m + g;  parameter = decayed - learning_rate (nesterov ? g + momentum m : m). m may be null when
/// momentum is 0. @shape all [n]  @source Sutskever et al. 2013, ICML
template <class T>
struct sgd_update_args {
  float* parameter = nullptr;
  float const* gradient = nullptr;
  float* m = nullptr;
  T* storage = nullptr;
  index_t n = 0;
  float learning_rate = 1e-2f;
  float momentum = 0.0f;
  bool nesterov = false;
  float weight_decay = 0.0f;
  float gradient_scale = 1.0f;
};
/// m = momentum m + g;  u = nesterov ? g + momentum m : m, over its Frobenius norm, made nearly orthogonal by
/// `iterations` of X = a X + (b A + c A A) X with A = X X^T (a, b, c = 3.4445, -4.7750, 2.0315);
/// parameter = decayed - learning_rate sqrt(max(1, rows / cols)) u
/// @shape all [rows, cols], dense  @source Jordan et al. 2024, "Muon: an optimizer for hidden layers"
template <class T>
struct muon_update_args {
  float* parameter = nullptr;
  float const* gradient = nullptr;
  float* m = nullptr;
  T* storage = nullptr;
  index_t rows = 0;
  index_t cols = 0;
  float learning_rate = 2e-2f;
  float momentum = 0.95f;
  bool nesterov = true;
  float weight_decay = 0.0f;
  float gradient_scale = 1.0f;
  int iterations = 5;
};

/// @test tests/ops/update_test.cpp
inline constexpr struct adamw_update_t : operation<adamw_update_t> {
  static constexpr char const* name = "adamw_update";
  template <class T>
  static profile::work work(adamw_update_args<T> const& a) {
    return {12.0 * double(a.n), double(a.n) * (7 * sizeof(float) + (a.storage ? sizeof(T) : 0))};
  }
} adamw_update{};

inline constexpr struct lion_update_t : operation<lion_update_t> {
  static constexpr char const* name = "lion_update";
  template <class T>
  static profile::work work(lion_update_args<T> const& a) {
    return {8.0 * double(a.n), double(a.n) * (5 * sizeof(float) + (a.storage ? sizeof(T) : 0))};
  }
} lion_update{};

inline constexpr struct sgd_update_t : operation<sgd_update_t> {
  static constexpr char const* name = "sgd_update";
  template <class T>
  static profile::work work(sgd_update_args<T> const& a) {
    return {6.0 * double(a.n), double(a.n) * ((a.m ? 5 : 3) * sizeof(float) + (a.storage ? sizeof(T) : 0))};
  }
} sgd_update{};

inline constexpr struct muon_update_t : operation<muon_update_t> {
  static constexpr char const* name = "muon_update";
  template <class T>
  static profile::work work(muon_update_args<T> const& a) {
    double const r = double(a.rows), c = double(a.cols), less = std::fmin(r, c);
    return {2.0 * a.iterations * (2 * less * r * c + less * less * less), 7 * r * c * sizeof(float)};
  }
} muon_update{};

}  // namespace tenon::ops
