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
#include <algorithm>
#include <span>
#include <string>
#include <type_traits>

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

/// Some queries and some keys of one sequence: attention taken in several calls, in order of the keys, gives the bits of
/// one. A call takes up the queries where the calls with earlier keys left them, and finishes those that see no later
/// key. `q` and what has its rows hold the part's queries, `k` and `v` its keys; sequence_begins is not looked at.
struct attention_part {
  index_t length = 0;        ///< of the sequence; 0: no part, q, k and v hold whole sequences
  index_t query = 0;         ///< position of the first query, for backward a multiple of query_leaf
  index_t key = 0;           ///< position of the first key; keys begin and end on multiples of 64 or at the end
  float* carried = nullptr;  ///< what is handed from call to call; see attention_forward_carried and _backward_carried
};
/// How many floats the forward calls of a part with `queries` queries hand on.
constexpr index_t attention_forward_carried(attention_options const& o, index_t queries) {
  return o.query_heads * round_up(queries, 64) * (round_up(o.head_width, lanes) + 2);
}
/// The same of backward: none where dq itself can hold the sums, which then is handed on.
template <class T>
constexpr index_t attention_backward_carried(attention_options const& o, index_t queries) {
  bool const in_dq = std::is_same_v<T, float> && o.head_width % lanes == 0;
  return in_dq ? 0 : o.query_heads * queries * round_up(o.head_width, lanes);
}

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
  attention_part part{};
};

/// @shape as attention_forward_args; d_out as out, dq as q, dk as k, dv as v  d_sinks [query_heads]
/// d_keys [keys, 2 * kv_heads * head_width]
template <class T>
struct attention_backward_args {
  matrix_view<T const> q, k, v, out;
  matrix_view<float const> log_sum_exp;
  matrix_view<T const> d_out;
  matrix_view<T> dq, dk, dv;  ///< overwritten
  std::span<index_t const> sequence_begins;
  attention_options options;
  float const* sinks = nullptr;
  float* d_sinks = nullptr;  ///< the sum is added to it; may be null; with a part, given to one call of a query
  attention_part part{};
  /// With a part, in place of dk and dv: [dk, dv] from these queries alone, a node of the tree over query leaves,
  /// before rounding. Zero where none of them sees the key.
  matrix_view<float> d_keys{};
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
};

/// What a call is about, in positions: one sequence, or the part.
struct attention_extent {
  index_t length, query_begin, query_end, key_begin, key_end;
};
template <class Args>
attention_extent extent_of_part(Args const& a) {
  auto const& p = a.part;
  return {p.length, p.query, p.query + a.q.extent(0), p.key, p.key + a.k.extent(0)};
}

/// How many pairs are visible.
inline double attention_pairs(attention_options const& o, attention_extent const& e) {
  attention_visibility const visible{o.causal, o.window, e.length};
  double sum = 0;
  for (index_t q = e.query_begin; q < e.query_end; ++q)
    sum += double(
        std::max<index_t>(0, std::min(visible.keys_end(q), e.key_end) - std::max(visible.keys_begin(q), e.key_begin)));
  return sum;
}
/// Visible (query, key) pairs of all sequences and query heads.
template <class Args>
double attention_pairs(Args const& a) {
  double sum = 0;
  if (a.part.length) sum = attention_pairs(a.options, extent_of_part(a));
  else
    for (std::size_t s = 0; s + 1 < a.sequence_begins.size(); ++s) {
      index_t const length = a.sequence_begins[s + 1] - a.sequence_begins[s];
      sum += attention_pairs(a.options, {length, 0, length, 0, length});
    }
  return sum * a.options.query_heads;
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
template <class Args>
void check_attention_part(Args const& a) {
  auto const e = extent_of_part(a);
  require_attention(e.query_begin >= 0 && e.query_end <= e.length && e.key_begin >= 0 && e.key_end <= e.length,
                    "the part's queries or keys lie outside of the sequence. Fix: positions in [0, length).");
  require_attention(
      e.key_begin % attention_key_block == 0 && (e.key_end % attention_key_block == 0 || e.key_end == e.length),
      "the part's keys do not begin and end on multiples of 64. Fix: cut the sequence there.");
}
/// Throws argument_error unless the shapes of forward's (and the same part of backward's) arguments fit together.
template <class Args>
void check_attention(Args const& a) {
  auto const& o = a.options;
  check_attention_options(o);
  index_t const tokens = a.q.extent(0), keys = a.part.length ? a.k.extent(0) : tokens;
  // One call each: nvcc's front end does not read a range-for over a braced list in a template.
  check_attention_matrix(a.q, tokens, o.query_heads * o.head_width);
  check_attention_matrix(a.out, tokens, o.query_heads * o.head_width);
  check_attention_matrix(a.k, keys, o.kv_heads * o.head_width);
  check_attention_matrix(a.v, keys, o.kv_heads * o.head_width);
  require_attention(a.log_sum_exp.extent(0) == o.query_heads && a.log_sum_exp.extent(1) == tokens,
                    "log_sum_exp is not [query_heads, tokens]. Fix: the view's shape.");
  if (a.part.length) return check_attention_part(a);
  auto const begins = a.sequence_begins;
  bool rising = !begins.empty() && begins.front() >= 0 && begins.back() <= tokens;
  for (std::size_t s = 0; s + 1 < begins.size(); ++s) rising = rising && begins[s] <= begins[s + 1];
  require_attention(rising,
                    "sequence_begins does not rise from at least 0 to at most the number of tokens. Fix: "
                    "sequences + 1 offsets, the last one the end.");
}

template <class T>
void check_attention_gradients(attention_backward_args<T> const& a) {
  index_t const tokens = a.q.extent(0), keys = a.k.extent(0), width = a.options.head_width;
  check_attention_matrix(a.d_out, tokens, a.options.query_heads * width);
  check_attention_matrix(a.dq, tokens, a.options.query_heads * width);
  if (a.part.length) {
    check_attention_matrix(a.d_keys, keys, 2 * a.options.kv_heads * width);
    require_attention(a.part.query % a.options.query_leaf == 0,
                      "the part's queries do not begin with a leaf. Fix: a multiple of query_leaf.");
    return;
  }
  check_attention_matrix(a.dk, keys, a.options.kv_heads * width);
  check_attention_matrix(a.dv, keys, a.options.kv_heads * width);
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
    double const values = 2 * double(a.q.size() + a.k.size());
    return {2 * per_pair * detail::attention_pairs(a),
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
    double const values = 4 * double(a.q.size() + a.k.size());
    return {5 * per_pair * detail::attention_pairs(a),
            values * sizeof(T) + rows * a.options.query_heads * sizeof(float)};
  }
} attention_backward{};

}  // namespace tenon::ops
