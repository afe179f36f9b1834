// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Exact softmax attention over packed sequences, in memory linear in the sequence, forward and backward.
///
/// Order of arithmetic. All positions count from the beginning of their own sequence.
///  - score(query, key) is one chain of fused multiply-adds over head_width, beginning at +0.
///  - A query row visits its keys in blocks of 64 (`attention_key_block`) in order. Its state is (maximum m, sum l,
///    outputs o), at first (-inf, 0, 0), with a sink (sink, 1, 0). With z the score (with a soft cap
///    tanh(score * (scale / soft_cap))), f the scale (the soft cap), and m' the new maximum over the z * f:
///    p = exp(fma(z, f, -m')), c = exp(m - m'), l = fma(l, c, sum of the block's p), o = o * c and then one chain of
///    fma(p, v, o) over the keys. The block's p are summed over 16 lanes (key mod 16), then by the tree of lanes.
///    At the end out = o / l and log_sum_exp = m + log(l).
///  - Backward: p = exp(fma(z, f, -log_sum_exp)), delta = the sum of d_out * out over 16 lanes,
///    d_score = p * (dot(d_out, v) - delta) * scale, with a soft cap * fma(-z, z, 1).
///    dq is one chain over the keys in order. dk and dv of a KV head have leaves of `query_leaf` queries; within a leaf
///    they are one chain over the query heads of the group, within each head over the queries; leaves are combined by
///    the fixed tree over the leaf index. d_sinks has a leaf per `query_leaf` queries, over all sequences.
///  - A masked key adds +0, and results that are zero are +0. So the rows of other queries, heads, sequences, threads
///    and tiles change no bit, as long as values are finite: an infinity or NaN in v may reach rows that do not see it,
///    though never another sequence.
#include <span>
#include <string>

#include <tenon/core/error.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// Keys that share one rescaling of the online softmax: part of the arithmetic contract.
inline constexpr index_t attention_key_block = 64;

/// What kind of attention. Query head h reads KV head h / (query_heads / kv_heads).
struct attention_options {
  int query_heads = 1, kv_heads = 1, head_width = 1;
  float scale = 1;          ///< on the dot product of query and key; usually head_width^-1/2
  bool causal = true;       ///< a key is visible iff its position is not after the query's
  index_t window = 0;       ///< 0: none; else a key is visible iff query position - key position < window
  float soft_cap = 0;       ///< 0: none; else a scaled score s becomes soft_cap * tanh(s / soft_cap)
  index_t query_leaf = 64;  ///< queries in a leaf of dk and dv, a multiple of 16; usually reduction_order::token_leaf
};

/// @shape q, out [tokens, query_heads * head_width]  k, v [tokens, kv_heads * head_width]; any row stride, column
/// stride 1  log_sum_exp [query_heads, tokens]; any strides  sequence_begins [sequences + 1]  sinks [query_heads]
/// @units log_sum_exp in nats
template <class T>
struct attention_forward_args {
  matrix_view<T const> q, k, v;
  matrix_view<T> out;
  matrix_view<float> log_sum_exp;            ///< what backward needs
  std::span<index_t const> sequence_begins;  ///< sequence i is tokens [begins[i], begins[i + 1]); none sees another
  attention_options options;
  float const* sinks = nullptr;  ///< a logit per query head that joins the softmax's denominator only
};

/// @shape as attention_forward_args; d_out as out, dq as q, dk as k, dv as v  d_sinks [query_heads]
template <class T>
struct attention_backward_args {
  matrix_view<T const> q, k, v, out;
  matrix_view<float const> log_sum_exp;
  matrix_view<T const> d_out;
  matrix_view<T> dq, dk, dv;  ///< overwritten
  std::span<index_t const> sequence_begins;
  attention_options options;
  float const* sinks = nullptr;
  float* d_sinks = nullptr;  ///< the sum is added to it; may be null
};

namespace detail {

/// Which keys a query sees, and which queries see a key, within one sequence. Both are intervals.
struct attention_visibility {
  bool causal;
  index_t window, length;
  index_t keys_begin(index_t query) const { return window > 0 && query >= window ? query - window + 1 : 0; }
  index_t keys_end(index_t query) const { return causal ? query + 1 : length; }
  index_t queries_begin(index_t key) const { return causal ? key : 0; }
  index_t queries_end(index_t key) const { return window > 0 && window < length - key ? key + window : length; }
  /// How many (query, key) pairs are visible.
  double pairs() const {
    double sum = 0;
    for (index_t q = 0; q < length; ++q) sum += double(keys_end(q) - keys_begin(q));
    return sum;
  }
};

/// Visible (query, key) pairs of all sequences and query heads.
inline double attention_pairs(attention_options const& o, std::span<index_t const> begins) {
  double sum = 0;
  for (std::size_t s = 0; s + 1 < begins.size(); ++s)
    sum += attention_visibility{o.causal, o.window, begins[s + 1] - begins[s]}.pairs();
  return sum * o.query_heads;
}

inline void require_attention(bool fits, char const* what) {
  if (!fits) throw argument_error(std::string("tenon::attention: ") + what);
}
inline void check_attention_options(attention_options const& o) {
  require_attention(o.query_heads > 0 && o.kv_heads > 0 && o.head_width > 0,
                    "heads and head_width must be positive. Fix: give all three.");
  require_attention(o.query_heads % o.kv_heads == 0,
                    "query_heads is not a multiple of kv_heads; query heads share KV "
                    "heads in equal groups. Fix: choose a divisor.");
  require_attention(o.query_leaf > 0 && o.query_leaf % lanes == 0,
                    "query_leaf is not a positive multiple of 16. Fix: use reduction_order::token_leaf(length).");
  require_attention(o.window >= 0 && o.soft_cap >= 0, "window or soft_cap is negative. Fix: 0 means none.");
}
template <class T>
void check_attention_matrix(matrix_view<T> m, index_t tokens, index_t columns) {
  require_attention(m.extent(0) == tokens && m.extent(1) == columns && (columns <= 1 || m.stride(1) == 1),
                    "a matrix is not [tokens, heads * head_width] with column stride 1. Fix: the view's shape.");
}
/// Throws argument_error unless the shapes of forward's (and the same part of backward's) arguments fit together.
template <class Args>
void check_attention(Args const& a) {
  auto const& o = a.options;
  check_attention_options(o);
  index_t const tokens = a.q.extent(0);
  // One call each: nvcc's front end does not read a range-for over a braced list in a template.
  check_attention_matrix(a.q, tokens, o.query_heads * o.head_width);
  check_attention_matrix(a.out, tokens, o.query_heads * o.head_width);
  check_attention_matrix(a.k, tokens, o.kv_heads * o.head_width);
  check_attention_matrix(a.v, tokens, o.kv_heads * o.head_width);
  require_attention(a.log_sum_exp.extent(0) == o.query_heads && a.log_sum_exp.extent(1) == tokens,
                    "log_sum_exp is not [query_heads, tokens]. Fix: the view's shape.");
  auto const begins = a.sequence_begins;
  bool rising = !begins.empty() && begins.front() >= 0 && begins.back() <= tokens;
  for (std::size_t s = 0; s + 1 < begins.size(); ++s) rising = rising && begins[s] <= begins[s + 1];
  require_attention(rising,
                    "sequence_begins does not rise from at least 0 to at most the number of tokens. Fix: "
                    "sequences + 1 offsets, the last one the end.");
}

template <class T>
void check_attention_gradients(attention_backward_args<T> const& a) {
  index_t const tokens = a.q.extent(0), width = a.options.head_width;
  check_attention_matrix(a.d_out, tokens, a.options.query_heads * width);
  check_attention_matrix(a.dq, tokens, a.options.query_heads * width);
  check_attention_matrix(a.dk, tokens, a.options.kv_heads * width);
  check_attention_matrix(a.dv, tokens, a.options.kv_heads * width);
}

}  // namespace detail

/// Softmax attention. Counts two products over the visible pairs: q k and p v.
/// @error argument_error when shapes or options do not fit
/// @source Dao 2023, arXiv:2307.08691, algorithm 1; sinks: Xiao et al. 2023, arXiv:2309.17453
/// @test tests/ops/attention_test.cpp
inline constexpr struct attention_forward_t : operation<attention_forward_t> {
  static constexpr char const* name = "attention_forward";
  template <class T>
  static profile::work work(attention_forward_args<T> const& a) {
    double const per_pair = 2.0 * a.options.head_width, rows = double(a.q.extent(0));
    double const values = rows * double(2 * a.q.extent(1) + 2 * a.k.extent(1));
    return {2 * per_pair * detail::attention_pairs(a.options, a.sequence_begins),
            values * sizeof(T) + rows * a.options.query_heads * sizeof(float)};
  }
} attention_forward{};

/// The gradients of q, k, v (and of the sinks) from out's. Counts five products over the visible pairs: q k again,
/// d_out v, and one each for dq, dk, dv.
/// @error argument_error when shapes or options do not fit
/// @source Dao 2023, arXiv:2307.08691, algorithm 2  @test tests/ops/attention_test.cpp
inline constexpr struct attention_backward_t : operation<attention_backward_t> {
  static constexpr char const* name = "attention_backward";
  template <class T>
  static profile::work work(attention_backward_args<T> const& a) {
    double const per_pair = 2.0 * a.options.head_width, rows = double(a.q.extent(0));
    double const values = rows * double(4 * a.q.extent(1) + 4 * a.k.extent(1));
    return {5 * per_pair * detail::attention_pairs(a.options, a.sequence_begins),
            values * sizeof(T) + rows * a.options.query_heads * sizeof(float)};
  }
} attention_backward{};

}  // namespace tenon::ops
