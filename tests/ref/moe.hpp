// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Routing to experts in double, one token after the other.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <tenon/core/view.hpp>

namespace ref {

using tenon::index_t;

inline std::vector<double> softmax(double const* logits, index_t n) {
  std::vector<double> p(logits, logits + n);
  double const largest = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (auto& x : p) sum += x = std::exp(x - largest);
  for (auto& x : p) x /= sum;
  return p;
}

struct routes {
  index_t slots = 0, experts = 0;
  std::vector<std::vector<double>> probabilities;  ///< [t][experts]
  std::vector<std::vector<index_t>> chosen;        ///< [t][slots]
  std::vector<std::vector<bool>> kept;             ///< [t][slots]
  std::vector<std::vector<double>> counts;         ///< [sequence][experts]

  double weight(index_t t, index_t j) const {
    auto const& p = probabilities[std::size_t(t)];
    auto const& c = chosen[std::size_t(t)];
    double sum = 0;
    for (auto e : c) sum += p[std::size_t(e)];
    return kept[std::size_t(t)][std::size_t(j)] ? p[std::size_t(c[std::size_t(j)])] / sum : 0;
  }
};

/// @param capacity slots of an expert in a sequence
inline routes route(std::vector<double> const& logits, std::vector<index_t> const& begins, index_t experts,
                    index_t slots, index_t capacity) {
  routes r{slots, experts, {}, {}, {}, {}};
  for (std::size_t s = 0; s + 1 < begins.size(); ++s) {
    r.counts.emplace_back(experts, 0.0);
    for (index_t t = begins[s]; t < begins[s + 1]; ++t) {
      r.probabilities.push_back(softmax(logits.data() + t * experts, experts));
      auto const& p = r.probabilities.back();
      std::vector<index_t> order(static_cast<std::size_t>(experts));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](index_t a, index_t b) { return p[std::size_t(a)] > p[std::size_t(b)]; });
      order.resize(std::size_t(slots));
      r.chosen.push_back(order);
      r.kept.emplace_back();
      for (auto e : order) r.kept.back().push_back(r.counts.back()[std::size_t(e)]++ < double(capacity));
    }
  }
  return r;
}

/// experts x the sum over experts of share x mean probability, of the tokens [begin, end) of sequence s.
inline double balance(routes const& r, std::size_t s, index_t begin, index_t end) {
  double sum = 0, length = double(end - begin);
  for (std::size_t e = 0; e < std::size_t(r.experts); ++e)
    for (index_t t = begin; t < end; ++t)
      sum += r.counts[s][e] / (length * double(r.slots)) * r.probabilities[std::size_t(t)][e] / length;
  return double(r.experts) * sum;
}

}  // namespace ref
