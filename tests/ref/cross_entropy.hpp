// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Output projection and cross-entropy in double, with gradients by the book.
#include <cmath>
#include <cstdint>
#include <vector>

#include <tenon/core/view.hpp>

namespace ref {

using tenon::index_t;

struct cross_entropy_result {
  std::vector<double> losses, d_hidden, d_weight;
};
/// hidden [t,c], weight [v,c]; gradients of scale * sum of losses.
inline cross_entropy_result cross_entropy(std::vector<double> const& hidden, std::vector<double> const& weight,
                                          std::vector<std::int32_t> const& targets, index_t c, double scale,
                                          double cap) {
  std::size_t const t = targets.size(), width = std::size_t(c), v = weight.size() / width;
  cross_entropy_result r{std::vector<double>(t), std::vector<double>(hidden.size()),
                         std::vector<double>(weight.size())};
  for (std::size_t i = 0; i < t; ++i) {
    if (targets[i] < 0) continue;
    std::vector<double> logits(v), slope(v, 1.0);
    double sum = 0;
    for (std::size_t w = 0; w < v; ++w) {
      for (std::size_t j = 0; j < width; ++j) logits[w] += hidden[i * width + j] * weight[w * width + j];
      if (cap != 0) {
        double const u = std::tanh(logits[w] / cap);
        logits[w] = cap * u, slope[w] = 1 - u * u;
      }
      sum += std::exp(logits[w]);
    }
    r.losses[i] = std::log(sum) - logits[std::size_t(targets[i])];
    for (std::size_t w = 0; w < v; ++w) {
      double const d = scale * slope[w] * (std::exp(logits[w]) / sum - (std::size_t(targets[i]) == w ? 1 : 0));
      for (std::size_t j = 0; j < width; ++j) {
        r.d_hidden[i * width + j] += d * weight[w * width + j];
        r.d_weight[w * width + j] += d * hidden[i * width + j];
      }
    }
  }
  return r;
}

}  // namespace ref
