// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention forward on the host: a few tiles of 64 queries of one head at a time, the keys in blocks of 64.
///
/// Scores are kept as [key][query], sixteen queries in a vector: the softmax needs no sum across lanes, and keys and
/// values are read as they lie in memory.
#include <limits>
#include <memory>

#include <tenon/exec/host/math.hpp>
#include <tenon/ops/host/attention_tile.hpp>
#include <tenon/policy/device.hpp>

namespace tenon::ops::detail {

/// The online softmax of one tile of queries, and the memory to take it one block of keys further.
struct attention_query_state {
  float *q, *out;           ///< [head_width][queries], [queries][padded]
  float *maximum, *sum;     ///< [queries]
  float *scores, *rescale;  ///< [keys][queries], [queries]; shared by the tiles of a thread
  index_t padded;           ///< head_width, a multiple of 16
};

/// A thread's memory for forward.
struct attention_forward_scratch {
  static constexpr index_t queries = attention_tile::queries, keys = attention_tile::keys;
  index_t padded;
  float *k, *v;  ///< [keys][padded]
  attention_query_state tiles[attention_tile::most_in_unit];

  template <class Memory>
  attention_forward_scratch(Memory& a, index_t head_width, index_t tiles_in_unit)
      : padded(round_up(head_width, lanes)) {
    for (float** p : {&k, &v}) *p = a.template allocate<float>(keys * padded);
    float* const scores = a.template allocate<float>(keys * queries);
    float* const rescale = a.template allocate<float>(queries);
    for (index_t i = 0; i < tiles_in_unit; ++i) {
      auto& t = tiles[i];
      for (float** p : {&t.q, &t.out}) *p = a.template allocate<float>(queries * padded);
      for (float** p : {&t.maximum, &t.sum}) *p = a.template allocate<float>(queries);
      t.scores = scores, t.rescale = rescale, t.padded = padded;
    }
  }
};

/// A few tiles of queries of one head, one after another.
struct attention_query_item {
  attention_visibility visible;
  attention_interval key_blocks;   ///< that are here
  index_t query_token, key_token;  ///< the rows of q and of k that position 0 has, or would have
  index_t query, queries;          ///< positions [query, query + queries)
  int head, kv_head;
  index_t tiles() const { return ceil_div(queries, attention_tile::queries); }
  /// Tile `t` against block `b` of keys.
  attention_block block(index_t t, index_t b) const {
    index_t const first = t * attention_tile::queries, key = b * attention_key_block;
    return {visible, query + first, std::min(attention_tile::queries, queries - first), key,
            std::min(attention_key_block, visible.length - key)};
  }
};

/// The new state and the p of sixteen queries (column `c` of the scores) after a block of keys.
/// `Masked`: not every pair is visible. `Capped`: with a soft cap.
template <bool Masked, bool Capped>
void attention_softmax(attention_options const& o, attention_block const& block, index_t c,
                       attention_query_state const& s) {
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
    partial[l] = simd::zeros();
    for (index_t key = l; key < attention_tile::keys; key += lanes) {
      if (key < range.begin || key >= range.end) {  // products over several rows read these too
        store(column + key * stride, simd::zeros());
        continue;
      }
      f32x16 p = exp(fma(simd::load(column + key * stride), factor, minus));
      if constexpr (Masked) p = attention_keep(kept(key), p, simd::zeros());
      store(column + key * stride, p);
      partial[l] = partial[l] + p;
    }
  }
  for (int half = lanes / 2; half; half /= 2)
    for (int l = 0; l < half; ++l) partial[l] = partial[l] + partial[l + half];
  // A row that has seen nothing yet has o = 0 and l = 0: any finite factor does.
  f32x16 const rescale = select(lowest < before, exp(before - maximum), simd::zeros());
  store(s.rescale + c, rescale);
  store(s.sum + c, fma(simd::load(s.sum + c), rescale, partial[0]));
}

inline void attention_softmax(attention_options const& o, attention_block const& block, index_t c,
                              attention_query_state const& s) {
  bool const whole = block.whole(), capped = o.soft_cap > 0;
  auto const kernel = whole    ? capped ? attention_softmax<false, true> : attention_softmax<false, false>
                         : capped ? attention_softmax<true, true>
                               : attention_softmax<true, false>;
  kernel(o, block, c, s);
}

/// Scores, softmax and outputs of one tile against one block of keys, `k` and `v` [keys][padded].
inline void attention_forward_block(attention_options const& o, attention_block const& block, bool first,
                                    float const* k, float const* v, attention_query_state const& s,
                                    attention_prefetch& ahead) {
  constexpr index_t stride = attention_forward_scratch::queries;
  attention_row_groups(block.keys, [&](index_t key, index_t rows) {
    ahead.step();
    auto const seen_by = block.queries_of(key, rows);
    index_t const begin = seen_by.begin / lanes, end = ceil_div(seen_by.end, lanes);
    if (!seen_by.empty())
      attention_rows_product<attention_operand::by_row>(rows, end - begin, o.head_width, k + key * s.padded, s.padded,
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
    attention_rows_product<attention_operand::by_depth>(
        rows, s.padded / lanes, keys.end - keys.begin, s.scores + keys.begin * stride + q, stride,
        v + keys.begin * s.padded, s.padded, s.out + q * s.padded, s.padded, !first);
  });
}

/// Q, and the state before the first key unless an earlier call left one.
template <class T>
void attention_forward_begin(attention_forward_args<T> const& a, attention_query_item const& item, index_t t,
                             attention_query_state& s) {
  index_t const position = item.query + t * attention_tile::queries, row = item.query_token + position;
  index_t const queries = std::min(attention_tile::queries, item.query + item.queries - position);
  index_t const width = a.options.head_width;
  attention_pack_transposed(&a.q(row, item.head * width), a.q.stride(0), queries, width, s.q);
  if (a.part.carried) {
    index_t const rows = round_up(a.q.extent(0), attention_tile::queries);
    float* const of_head = a.part.carried + item.head * rows * (s.padded + 2);
    s.maximum = of_head + row, s.sum = of_head + rows + row, s.out = of_head + 2 * rows + row * s.padded;
  }
  if (attention_key_blocks(item.visible, position, queries).begin < item.key_blocks.begin) return;
  for (index_t i = 0; i < attention_tile::queries; ++i) {
    s.maximum[i] = a.sinks ? a.sinks[item.head] : -std::numeric_limits<float>::infinity();
    s.sum[i] = a.sinks ? 1.0f : 0.0f;
  }
}
/// The outputs and log_sum_exp after the last key.
template <class T>
void attention_forward_end(attention_forward_args<T> const& a, attention_query_item const& item, index_t t,
                           attention_query_state const& s) {
  index_t const first = t * attention_tile::queries, width = a.options.head_width;
  index_t const row = item.query_token + item.query + first,
                queries = std::min(attention_tile::queries, item.queries - first);
  for (index_t c = 0; c < queries; c += lanes) {
    float log_sum_exp[lanes];
    store(log_sum_exp, simd::load(s.maximum + c) + log(simd::load(s.sum + c)));
    for (index_t i = 0; i < std::min<index_t>(lanes, queries - c); ++i)
      a.log_sum_exp(item.head, row + c + i) = log_sum_exp[i];
  }
  for (index_t q = 0; q < queries; ++q) {
    simd::f32x16 const sum = simd::broadcast(s.sum[q]);
    for (float *x = s.out + q * s.padded, *end = x + s.padded; x < end; x += lanes) store(x, simd::load(x) / sum);
  }
  attention_unpack(s.out, s.padded, queries, width, &a.out(row, item.head * width), a.out.stride(0));
}

/// All tiles of an item walk over the keys together, so that each block of keys is read once.
template <class T>
void attention_forward_item(attention_forward_args<T> const& a, attention_query_item const& item,
                            attention_forward_scratch& s) {
  index_t const column = item.kv_head * index_t(a.options.head_width);
  auto const all = attention_key_blocks(item.visible, item.query, item.queries).within(item.key_blocks);
  if (all.begin >= all.end) return;
  attention_query_state tiles[attention_tile::most_in_unit];
  for (index_t t = 0; t < item.tiles(); ++t) attention_forward_begin(a, item, t, tiles[t] = s.tiles[t]);
  index_t const steps = item.tiles() * ceil_div(attention_key_block, attention_tile::rows);
  auto const seen_by = [&](attention_block const& b) { return attention_key_blocks(b.visible, b.query, b.queries); };
  for (index_t b = all.begin; b < all.end; ++b) {
    auto const [key, keys] = std::pair(item.block(0, b).key, item.block(0, b).keys);
    index_t const row = item.key_token + key, width = a.options.head_width, after = key + keys;
    attention_pack(&a.k(row, column), a.k.stride(0), keys, width, s.k, s.padded);
    attention_pack(&a.v(row, column), a.v.stride(0), keys, width, s.v, s.padded);
    attention_prefetch ahead(b + 1 < all.end ? std::min(attention_key_block, item.visible.length - after) : 0, steps);
    ahead.set(0, a.k, row + keys, column, width);
    ahead.set(1, a.v, row + keys, column, width);
    for (index_t t = 0; t < item.tiles(); ++t) {
      auto const block = item.block(t, b);
      auto const own = seen_by(block);
      if (own.begin <= b && b < own.end)
        attention_forward_block(a.options, block, b == own.begin, s.k, s.v, tiles[t], ahead);
    }
  }
  for (index_t t = 0; t < item.tiles(); ++t)
    if (auto const last = seen_by(item.block(t, 0)).end - 1; all.begin <= last && last < all.end)
      attention_forward_end(a, item, t, tiles[t]);
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
    arena_scope scope(ctx.scratch());
    detail::attention_call const call(a);
    index_t const in_unit = detail::attention_blocks_in_unit(call.query_begins(), o.query_heads, ctx.pool().size());
    auto* const scratch = ctx.scratch().allocate<detail::attention_forward_scratch>(ctx.pool().size());
    for (int t = 0; t < ctx.pool().size(); ++t) std::construct_at(scratch + t, ctx.scratch(), o.head_width, in_unit);
    auto const work = [&](detail::attention_unit const& u, int thread) {
      auto const e = call.extent(u.length);
      detail::attention_query_item const item{{o.causal, o.window, e.length},
                                              detail::attention_key_blocks(e),
                                              u.token - e.query_begin,
                                              u.token - e.key_begin,
                                              e.query_begin + u.first,
                                              u.count,
                                              int(u.repeat),
                                              int(u.repeat) / (o.query_heads / o.kv_heads)};
      detail::attention_forward_item(a, item, scratch[thread]);
    };
    detail::attention_for_each_unit(ctx.pool(), call.query_begins(), in_unit, o.query_heads, true, work);
  }
  /// Bytes that `run` takes from the context's scratch memory.
  template <class T>
  static std::size_t scratch_bytes(attention_forward_args<T> const& a, int threads) {
    auto const& o = a.options;
    detail::attention_memory_count count;
    index_t const in_unit =
        detail::attention_blocks_in_unit(detail::attention_call(a).query_begins(), o.query_heads, threads);
    count.allocate<detail::attention_forward_scratch>(threads);
    for (int t = 0; t < threads; ++t) detail::attention_forward_scratch(count, o.head_width, in_unit);
    return count.bytes;
  }
};

}  // namespace tenon::ops
