// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention forward on the host: one tile of queries of one head at a time, its keys in blocks of 64.
///
/// Scores are kept as [key][query], sixteen queries in a vector: the softmax needs no sum across lanes, and keys and
/// values are read as they lie in memory.
#include <limits>
#include <memory>

#include <tenon/exec/host/math.hpp>
#include <tenon/ops/host/attention_tile.hpp>
#include <tenon/policy/device.hpp>

namespace tenon::ops::detail {

/// A thread's memory for forward.
struct attention_forward_scratch {
  static constexpr index_t queries = attention_tile::queries, keys = attention_tile::keys;
  index_t padded;          ///< head_width, a multiple of 16
  float *q, *k, *v;        ///< [head_width][queries], [keys][padded], [keys][padded]
  float *scores, *out;     ///< [keys][queries], [queries][padded]
  float *maximum, *sum, *rescale;  ///< [queries]

  attention_forward_scratch(arena& a, index_t head_width) : padded(round_up(head_width, lanes)) {
    for (float** p : {&q, &k, &v, &out}) *p = a.allocate<float>(64 * padded);
    scores = a.allocate<float>(keys * queries);
    for (float** p : {&maximum, &sum, &rescale}) *p = a.allocate<float>(queries);
  }
};

/// One tile of queries of one head.
struct attention_query_tile {
  attention_visibility visible;
  index_t token;           ///< of the sequence's beginning
  index_t query, queries;  ///< positions [query, query + queries)
  int head, kv_head;
};

/// The new state and the p of sixteen queries (column `c` of the scores) after a block of keys.
/// `Masked`: not every pair is visible. `Capped`: with a soft cap.
template <bool Masked, bool Capped>
void attention_softmax(attention_options const& o, attention_block const& block, index_t c, attention_forward_scratch& s) {
  using simd::f32x16, simd::broadcast;
  constexpr index_t stride = attention_forward_scratch::queries;
  float* const column = s.scores + c;
  f32x16 const factor = broadcast(Capped ? o.soft_cap : o.scale);
  f32x16 const into_cap = broadcast(Capped ? o.scale / o.soft_cap : 0);
  f32x16 const lowest = broadcast(-std::numeric_limits<float>::infinity());
  index_t const count = std::min<index_t>(lanes, block.queries - c);
  auto const range = Masked ? block.keys_of(c, count) : attention_interval{0, block.keys};
  auto const kept = [&](index_t key) {
    auto const q = block.queries_of(key);
    return attention_interval{q.begin - c, q.end - c};
  };
  f32x16 const before = simd::load(s.maximum + c);
  f32x16 maxima[4] = {before, lowest, lowest, lowest};
  for (index_t key = range.begin; key < range.end; ++key) {
    f32x16 z = simd::load(column + key * stride);
    if constexpr (Capped) store(column + key * stride, z = tanh(z * into_cap));
    f32x16 x = z * factor;
    if constexpr (Masked) x = attention_keep(kept(key), x, lowest);
    maxima[key % 4] = max(maxima[key % 4], x);
  }
  f32x16 const maximum = max(max(maxima[0], maxima[1]), max(maxima[2], maxima[3]));
  store(s.maximum + c, maximum);
  f32x16 const minus = negate(maximum);
  f32x16 partial[lanes];
  for (index_t l = 0; l < lanes; ++l) {
    partial[l] = simd::zero();
    for (index_t key = l; key < attention_tile::keys; key += lanes) {
      if (key < range.begin || key >= range.end) {  // products over several rows read these too
        store(column + key * stride, simd::zero());
        continue;
      }
      f32x16 p = exp(fma(simd::load(column + key * stride), factor, minus));
      if constexpr (Masked) p = attention_keep(kept(key), p, simd::zero());
      store(column + key * stride, p);
      partial[l] = partial[l] + p;
    }
  }
  for (int half = lanes / 2; half; half /= 2)
    for (int l = 0; l < half; ++l) partial[l] = partial[l] + partial[l + half];
  // A row that has seen nothing yet has o = 0 and l = 0: any finite factor does.
  f32x16 const rescale = select(lowest < before, exp(before - maximum), simd::zero());
  store(s.rescale + c, rescale);
  store(s.sum + c, fma(simd::load(s.sum + c), rescale, partial[0]));
}

inline void attention_softmax(attention_options const& o, attention_block const& block, index_t c,
                              attention_forward_scratch& s) {
  bool const whole = block.whole(), capped = o.soft_cap > 0;
  auto const kernel = whole ? capped ? attention_softmax<false, true> : attention_softmax<false, false>
                            : capped ? attention_softmax<true, true> : attention_softmax<true, false>;
  kernel(o, block, c, s);
}

/// Scores, softmax and outputs of one tile against one block of keys, which is packed already.
inline void attention_forward_block(attention_options const& o, attention_block const& block, bool first,
                                    attention_forward_scratch& s) {
  constexpr index_t stride = attention_forward_scratch::queries;
  attention_row_groups(block.keys, [&](index_t key, index_t rows) {
    auto const seen_by = block.queries_of(key, rows);
    index_t const begin = seen_by.begin / lanes, end = ceil_div(seen_by.end, lanes);
    if (!seen_by.empty())
      attention_rows_product<attention_operand::by_row>(rows, end - begin, o.head_width, s.k + key * s.padded, s.padded,
                                                        s.q + begin * lanes, stride,
                                                        s.scores + key * stride + begin * lanes, stride, false);
  });
  for (index_t c = 0; c < block.queries; c += lanes) attention_softmax(o, block, c, s);
  if (!first)
    for (index_t q = 0; q < block.queries; ++q) {
      if (s.rescale[q] == 1.0f) continue;
      simd::f32x16 const factor = simd::broadcast(s.rescale[q]);
      for (float *x = s.out + q * s.padded, *end = x + s.padded; x < end; x += lanes)
        simd::store(x, simd::load(x) * factor);
    }
  attention_row_groups(block.queries, [&](index_t q, index_t rows) {
    auto const keys = block.keys_of(q, rows);
    if (keys.empty() && !first) return;
    attention_rows_product<attention_operand::by_depth>(rows, s.padded / lanes, keys.end - keys.begin,
                                                        s.scores + keys.begin * stride + q, stride,
                                                        s.v + keys.begin * s.padded, s.padded, s.out + q * s.padded,
                                                        s.padded, !first);
  });
}

template <class T>
void attention_forward_tile(attention_forward_args<T> const& a, attention_query_tile const& t, attention_forward_scratch& s) {
  auto const& o = a.options;
  index_t const width = o.head_width, row = t.token + t.query;
  attention_pack_transposed(&a.q(row, t.head * width), a.q.stride(0), t.queries, width, s.q);
  for (index_t i = 0; i < attention_tile::queries; ++i) {
    s.maximum[i] = a.sinks ? a.sinks[t.head] : -std::numeric_limits<float>::infinity();
    s.sum[i] = a.sinks ? 1.0f : 0.0f;
  }
  auto const blocks = attention_key_blocks(t.visible, t.query, t.queries);
  for (index_t b = blocks.begin; b < blocks.end; ++b) {
    index_t const key = b * attention_key_block, keys = std::min(attention_key_block, t.visible.length - key);
    attention_pack(&a.k(t.token + key, t.kv_head * width), a.k.stride(0), keys, width, s.k, s.padded);
    attention_pack(&a.v(t.token + key, t.kv_head * width), a.v.stride(0), keys, width, s.v, s.padded);
    attention_forward_block(o, {t.visible, t.query, t.queries, key, keys}, b == blocks.begin, s);
  }
  for (index_t c = 0; c < t.queries; c += lanes) {
    float log_sum_exp[lanes];
    simd::store(log_sum_exp, simd::load(s.maximum + c) + simd::log(simd::load(s.sum + c)));
    for (index_t i = 0; i < std::min<index_t>(lanes, t.queries - c); ++i)
      a.log_sum_exp(t.head, row + c + i) = log_sum_exp[i];
  }
  for (index_t q = 0; q < t.queries; ++q) {
    simd::f32x16 const sum = simd::broadcast(s.sum[q]);
    for (float *x = s.out + q * s.padded, *end = x + s.padded; x < end; x += lanes) simd::store(x, simd::load(x) / sum);
  }
  attention_unpack(s.out, s.padded, t.queries, width, &a.out(row, t.head * width), a.out.stride(0));
}

}  // namespace tenon::ops::detail

namespace tenon::ops {

/// @test tests/ops/attention_test.cpp
template <>
struct kernel_for<attention_forward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, attention_forward_args<T> const& a) {
    detail::check_attention(a);
    auto const& o = a.options;
    auto const begins = a.sequence_begins;
    arena_scope scope(ctx.scratch());
    auto* const scratch = ctx.scratch().allocate<detail::attention_forward_scratch>(ctx.pool().size());
    for (int t = 0; t < ctx.pool().size(); ++t) std::construct_at(scratch + t, ctx.scratch(), o.head_width);
    detail::attention_for_each_unit(ctx.pool(), begins, o.query_heads, true, [&](index_t s, index_t unit, index_t head, int thread) {
      index_t const begin = begins[std::size_t(s)], length = begins[std::size_t(s) + 1] - begin;
      index_t const query = unit * detail::attention_tile::queries;
      detail::attention_query_tile const tile{{o.causal, o.window, length}, begin, query,
                                              std::min(detail::attention_tile::queries, length - query), int(head),
                                              int(head) / (o.query_heads / o.kv_heads)};
      detail::attention_forward_tile(a, tile, scratch[thread]);
    });
  }
};

}  // namespace tenon::ops
