// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Sampling by sorting the whole vocabulary, in double.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <tenon/core/philox.hpp>
#include <tenon/ops/sample.hpp>

namespace ref {

/// The logits after bias, penalties and mask.
inline std::vector<double> changed_logits(tenon::ops::sample_row const& r, tenon::index_t vocabulary) {
  auto const& o = *r.options;
  std::vector<double> x(r.logits, r.logits + vocabulary);
  for (auto const& b : o.bias) x[std::size_t(b.token)] += double(b.value);
  for (auto const& s : r.seen) {
    double& y = x[std::size_t(s.token)];
    y = y > 0 ? y / double(o.repetition_penalty) : y * double(o.repetition_penalty);
    y -= double(o.frequency_penalty) * s.generated + (s.generated > 0 ? double(o.presence_penalty) : 0.0);
  }
  for (std::size_t t = 0; t < x.size() && !r.allowed.empty(); ++t)
    if (!((r.allowed[t / 32] >> (t % 32)) & 1u)) x[t] = -HUGE_VAL;
  return x;
}

/// What every token is drawn with, and how near the edges of the filters are to another set.
struct distribution {
  std::vector<double> probability;
  double margin = 1;
};
inline distribution sampling_distribution(tenon::ops::sample_row const& r, tenon::index_t vocabulary) {
  auto const& o = *r.options;
  auto x = changed_logits(r, vocabulary);
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return x[a] > x[b]; });
  distribution d{std::vector<double>(x.size(), 0.0)};
  if (o.temperature == 0) {
    d.probability[order[0]] = 1;
    return d;
  }
  std::size_t kept = o.top_k > 0 ? std::min(x.size(), std::size_t(o.top_k)) : x.size();
  auto const weight = [&](std::size_t i) { return std::exp((x[order[i]] - x[order[0]]) / double(o.temperature)); };
  double total = 0;
  for (std::size_t i = 0; i < kept; ++i) total += weight(i);
  if (o.top_p < 1) {
    double sum = 0;
    for (std::size_t i = 0; i < kept; ++i) {
      sum += weight(i);
      d.margin = std::min(d.margin, std::abs(sum / total - double(o.top_p)));
      if (sum >= double(o.top_p) * total) kept = i + 1;
    }
  }
  for (std::size_t i = 0; i < kept; ++i) {
    if (o.min_p > 0) d.margin = std::min(d.margin, std::abs(weight(i) - double(o.min_p)));
    if (weight(i) < double(o.min_p)) kept = i;
  }
  total = 0;
  for (std::size_t i = 0; i < kept; ++i) total += weight(i);
  for (std::size_t i = 0; i < kept; ++i) d.probability[order[i]] = weight(i) / total;
  return d;
}

/// The token that the row's random number falls on, tokens in order; `margin` shrinks to how near another one is.
inline std::int32_t drawn_token(distribution& d, tenon::ops::sampling_options const& o, std::uint64_t position) {
  auto const words = tenon::random_stream(o.seed, "sample").quad(o.sample, position);
  double const u = double((std::uint64_t(words[0]) << 32 | words[1]) >> 11) * 0x1p-53;
  double sum = 0;
  std::int32_t token = -1;
  for (std::size_t t = 0; t < d.probability.size(); ++t) {
    sum += d.probability[t];
    d.margin = std::min(d.margin, std::abs(sum - u));
    if (token < 0 && u < sum) token = std::int32_t(t);
  }
  return token;
}

}  // namespace ref
