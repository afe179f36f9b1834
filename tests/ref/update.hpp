// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Optimizer rules in double, as their papers write them.
#include <cmath>
#include <vector>

#include <tenon/core/view.hpp>

namespace ref {

using tenon::index_t;
using values = std::vector<double>;

struct update_numbers {
  double learning_rate, beta1, beta2, epsilon, weight_decay, momentum, gradient_scale;
  bool nesterov;
};

inline void adamw(values& p, values const& gradient, values& m, values& v, update_numbers const& u, int step) {
  for (std::size_t i = 0; i < p.size(); ++i) {
    double const g = gradient[i] * u.gradient_scale;
    m[i] = u.beta1 * m[i] + (1 - u.beta1) * g;
    v[i] = u.beta2 * v[i] + (1 - u.beta2) * g * g;
    double const m_hat = m[i] / (1 - std::pow(u.beta1, step)), v_hat = v[i] / (1 - std::pow(u.beta2, step));
    p[i] -= u.learning_rate * (m_hat / (std::sqrt(v_hat) + u.epsilon) + u.weight_decay * p[i]);
  }
}
inline void lion(values& p, values const& gradient, values& m, update_numbers const& u) {
  for (std::size_t i = 0; i < p.size(); ++i) {
    double const g = gradient[i] * u.gradient_scale, c = u.beta1 * m[i] + (1 - u.beta1) * g;
    p[i] -= u.learning_rate * (double(c > 0) - double(c < 0) + u.weight_decay * p[i]);
    m[i] = u.beta2 * m[i] + (1 - u.beta2) * g;
  }
}
inline void sgd(values& p, values const& gradient, values& m, update_numbers const& u) {
  for (std::size_t i = 0; i < p.size(); ++i) {
    double const g = gradient[i] * u.gradient_scale;
    m[i] = u.momentum * m[i] + g;
    p[i] -= u.learning_rate * ((u.nesterov ? g + u.momentum * m[i] : m[i]) + u.weight_decay * p[i]);
  }
}

inline values product(values const& a, values const& b, std::size_t rows, std::size_t inner, std::size_t cols) {
  values c(rows * cols, 0.0);
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t k = 0; k < inner; ++k)
      for (std::size_t j = 0; j < cols; ++j) c[i * cols + j] += a[i * inner + k] * b[k * cols + j];
  return c;
}
inline values transpose(values const& a, std::size_t rows, std::size_t cols) {
  values t(a.size());
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < cols; ++j) t[j * rows + i] = a[i * cols + j];
  return t;
}
inline void muon(values& p, values const& gradient, values& m, std::size_t rows, std::size_t cols,
                 update_numbers const& u) {
  values x(p.size());
  double norm = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    double const g = gradient[i] * u.gradient_scale;
    m[i] = u.momentum * m[i] + g;
    x[i] = u.nesterov ? g + u.momentum * m[i] : m[i];
    norm += x[i] * x[i];
  }
  for (double& v : x) v /= std::sqrt(norm) + 1e-7;
  for (int i = 0; i < 5; ++i) {
    values const a = product(x, transpose(x, rows, cols), rows, cols, rows), aa = product(a, a, rows, rows, rows);
    values const ax = product(a, x, rows, rows, cols), aax = product(aa, x, rows, rows, cols);
    for (std::size_t j = 0; j < x.size(); ++j) x[j] = 3.4445 * x[j] - 4.7750 * ax[j] + 2.0315 * aax[j];
  }
  double const stretch = std::sqrt(std::fmax(1, double(rows) / double(cols)));
  for (std::size_t i = 0; i < p.size(); ++i) p[i] -= u.learning_rate * (stretch * x[i] + u.weight_decay * p[i]);
}

}  // namespace ref
