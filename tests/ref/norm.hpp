// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file LayerNorm and RMSNorm in double, plain loops.
#include <cmath>
#include <vector>

#include <tenon/core/view.hpp>

namespace ref {

using tenon::index_t;

struct norm_shape {
  index_t rows, cols;
  bool centered;  ///< LayerNorm; else RMSNorm
  double epsilon;
  double weight_offset = 0;
};
struct norm_statistics {
  std::vector<double> mean, rstd;
};
inline norm_statistics norm_stats(norm_shape s, std::vector<double> const& x) {
  norm_statistics st;
  for (index_t r = 0; r < s.rows; ++r) {
    double mean = 0, square = 0;
    for (index_t j = 0; s.centered && j < s.cols; ++j) mean += x[std::size_t(r * s.cols + j)] / double(s.cols);
    for (index_t j = 0; j < s.cols; ++j) {
      double const d = x[std::size_t(r * s.cols + j)] - mean;
      square += d * d / double(s.cols);
    }
    st.mean.push_back(mean);
    st.rstd.push_back(1 / std::sqrt(square + s.epsilon));
  }
  return st;
}
/// bias may be empty.
inline std::vector<double> norm_forward(norm_shape s, std::vector<double> const& x, std::vector<double> const& weight,
                                        std::vector<double> const& bias) {
  auto const st = norm_stats(s, x);
  std::vector<double> y(x.size());
  for (index_t r = 0; r < s.rows; ++r)
    for (index_t j = 0; j < s.cols; ++j) {
      auto const i = std::size_t(r * s.cols + j), c = std::size_t(j);
      double const normal = (x[i] - st.mean[std::size_t(r)]) * st.rstd[std::size_t(r)];
      y[i] = normal * (weight[c] + s.weight_offset) + (bias.empty() ? 0 : bias[c]);
    }
  return y;
}

}  // namespace ref
