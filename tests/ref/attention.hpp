// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention in float64 with the whole score matrix, forward and its analytic gradient.
#include <cmath>
#include <cstddef>
#include <vector>

namespace ref {

struct attention_problem {
  std::vector<std::ptrdiff_t> sequence_begins;
  std::ptrdiff_t query_heads = 1, kv_heads = 1, head_width = 1;
  double scale = 1;
  bool causal = true;
  std::ptrdiff_t window = 0;
  double soft_cap = 0;
  std::vector<double> sinks;  // empty: none

  std::ptrdiff_t tokens() const { return sequence_begins.back(); }
  bool sees(std::ptrdiff_t query, std::ptrdiff_t key) const {
    return (!causal || key <= query) && (window == 0 || query - key < window);
  }
};

struct attention_result {
  std::vector<double> out;          // [tokens, query_heads * head_width]
  std::vector<double> log_sum_exp;  // [query_heads, tokens]
};
struct attention_gradients {
  std::vector<double> dq, dk, dv, d_sinks;
};

namespace detail {
inline double dot(double const* a, double const* b, std::ptrdiff_t n) {
  double sum = 0;
  for (std::ptrdiff_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}
}  // namespace detail

/// function(query, head, visible keys, their p, their tanh(score / cap) or 0) for every row of the softmax; all indices
/// are tokens, heads are query heads. p sums to 1 with the sink's share.
template <class Function>
void attention_rows(attention_problem const& a, std::vector<double> const& q, std::vector<double> const& k,
                    Function function) {
  auto const d = a.head_width, q_row = a.query_heads * d, k_row = a.kv_heads * d, group = a.query_heads / a.kv_heads;
  for (std::size_t s = 0; s + 1 < a.sequence_begins.size(); ++s)
    for (auto i = a.sequence_begins[s]; i < a.sequence_begins[s + 1]; ++i)
      for (std::ptrdiff_t h = 0; h < a.query_heads; ++h) {
        std::vector<std::ptrdiff_t> keys;
        std::vector<double> p, z;
        double maximum = a.sinks.empty() ? -INFINITY : a.sinks[std::size_t(h)];
        for (auto j = a.sequence_begins[s]; j < a.sequence_begins[s + 1]; ++j) {
          if (!a.sees(i, j)) continue;
          double score =
              a.scale * detail::dot(&q[std::size_t(i * q_row + h * d)], &k[std::size_t(j * k_row + h / group * d)], d);
          double const t = a.soft_cap > 0 ? std::tanh(score / a.soft_cap) : 0;
          if (a.soft_cap > 0) score = a.soft_cap * t;
          keys.push_back(j), p.push_back(score), z.push_back(t);
          maximum = std::max(maximum, score);
        }
        double sum = a.sinks.empty() ? 0 : std::exp(a.sinks[std::size_t(h)] - maximum);
        for (double& x : p) sum += x = std::exp(x - maximum);
        for (double& x : p) x /= sum;
        function(i, h, keys, p, z, maximum + std::log(sum));
      }
}

inline attention_result attention_forward(attention_problem const& a, std::vector<double> const& q,
                                          std::vector<double> const& k, std::vector<double> const& v) {
  auto const d = a.head_width, group = a.query_heads / a.kv_heads;
  attention_result r{std::vector<double>(q.size()), std::vector<double>(std::size_t(a.query_heads * a.tokens()))};
  attention_rows(a, q, k, [&](auto i, auto h, auto const& keys, auto const& p, auto const&, double log_sum_exp) {
    r.log_sum_exp[std::size_t(h * a.tokens() + i)] = log_sum_exp;
    for (std::size_t n = 0; n < keys.size(); ++n)
      for (std::ptrdiff_t c = 0; c < d; ++c)
        r.out[std::size_t((i * a.query_heads + h) * d + c)] +=
            p[n] * v[std::size_t((keys[n] * a.kv_heads + h / group) * d + c)];
  });
  return r;
}

inline attention_gradients attention_backward(attention_problem const& a, std::vector<double> const& q,
                                              std::vector<double> const& k, std::vector<double> const& v,
                                              std::vector<double> const& d_out) {
  auto const d = a.head_width, group = a.query_heads / a.kv_heads;
  attention_gradients g{std::vector<double>(q.size()), std::vector<double>(k.size()), std::vector<double>(v.size()),
                        std::vector<double>(std::size_t(a.query_heads))};
  attention_rows(a, q, k, [&](auto i, auto h, auto const& keys, auto const& p, auto const& z, double log_sum_exp) {
    auto const row = std::size_t((i * a.query_heads + h) * d);
    std::vector<double> dp(keys.size());
    double delta = 0;
    for (std::size_t n = 0; n < keys.size(); ++n) {
      dp[n] = detail::dot(&d_out[row], &v[std::size_t((keys[n] * a.kv_heads + h / group) * d)], d);
      delta += p[n] * dp[n];
    }
    for (std::size_t n = 0; n < keys.size(); ++n) {
      auto const key = std::size_t((keys[n] * a.kv_heads + h / group) * d);
      double const ds = p[n] * (dp[n] - delta) * (1 - z[n] * z[n]) * a.scale;
      for (std::size_t c = 0; c < std::size_t(d); ++c) {
        g.dv[key + c] += p[n] * d_out[row + c];
        g.dq[row + c] += ds * k[key + c];
        g.dk[key + c] += ds * q[row + c];
      }
    }
    if (!a.sinks.empty()) g.d_sinks[std::size_t(h)] -= std::exp(a.sinks[std::size_t(h)] - log_sum_exp) * delta;
  });
  return g;
}

}  // namespace ref
