// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention backward on the host: one block of 64 keys of one KV head at a time, all queries that see it.
///
/// Five products per tile, nothing is computed twice: dk and dv of the block stay with its thread, and dq of a tile is
/// handed from block to block in order of the keys, whichever threads hold them. Blocks are handed out in that order
/// too, so a thread waits only for work that another thread has already begun.
/// Scores are kept as [query][key], sixteen keys in a vector: queries are read as they lie in memory.
#include <atomic>
#include <memory>

#include <tenon/exec/host/math.hpp>
#include <tenon/ops/host/attention_tile.hpp>
#include <tenon/policy/device.hpp>

namespace tenon::ops::detail {

/// A thread's memory for backward.
struct attention_backward_scratch {
  static constexpr index_t queries = attention_tile::queries, keys = attention_tile::keys;
  index_t padded;                ///< head_width, a multiple of 16
  float *k, *k_columns, *v_columns;  ///< [keys][padded], then transposed: [head_width][keys]
  float *q, *d_out;              ///< [queries][padded]
  float *p, *d_scores;           ///< [queries][keys]
  float *log_sum_exp, *delta;    ///< [queries]
  float** spare;                 ///< buffers of dk and dv, [2][keys][padded] each: a stack
  int spares;

  attention_backward_scratch(arena& a, index_t head_width, int levels) : padded(round_up(head_width, lanes)), spares(levels + 2) {
    for (float** m : {&k, &k_columns, &v_columns, &q, &d_out}) *m = a.allocate<float>(64 * padded);
    for (float** m : {&p, &d_scores}) *m = a.allocate<float>(queries * keys);
    for (float** m : {&log_sum_exp, &delta}) *m = a.allocate<float>(queries);
    spare = a.allocate<float*>(spares);
    for (int i = 0; i < spares; ++i) spare[i] = a.allocate<float>(gradient_size());
  }
  index_t gradient_size() const { return 2 * keys * padded; }
};

/// What all threads share.
template <class T>
struct attention_backward_shared {
  attention_backward_args<T> const& args;
  float* delta;                  ///< [query_heads][tokens]
  std::atomic<int>* blocks_done; ///< of each tile of queries and query head: how many of its blocks of keys are in dq
  index_t* first_tile;           ///< of each sequence, among all tiles
  float* dq;                     ///< fp32 sums where dq itself cannot hold them, [query_heads][tokens][padded]

  /// dq can hold the sums when it is fp32 and whole vectors fit into a head.
  static bool in_place(attention_options const& o) { return std::is_same_v<T, float> && o.head_width % lanes == 0; }
  index_t tiles_per_leaf() const { return ceil_div(args.options.query_leaf, attention_tile::queries); }
};

/// One block of keys of one KV head of one sequence.
struct attention_key_item {
  attention_visibility visible;
  index_t sequence, token;       ///< the sequence, and the token it begins at
  index_t key, keys;             ///< positions [key, key + keys)
  int kv_head;
};

/// A node of the tree of leaves: dk and dv of a block of keys, or nothing when no query of the leaf sees the block.
struct attention_gradient_node {
  float* values = nullptr;
};

/// p and the gradients of the scores of one query, in place of the scores `p` and of dot(d_out, v) in `d_scores`.
template <bool Masked, bool Capped>
void attention_score_gradients(attention_options const& o, attention_interval seen, float log_sum_exp, float delta,
                               float* p, float* d_scores) {
  using simd::f32x16, simd::broadcast;
  f32x16 const factor = broadcast(Capped ? o.soft_cap : o.scale), into_cap = broadcast(Capped ? o.scale / o.soft_cap : 0);
  f32x16 const minus = broadcast(-log_sum_exp), mean = broadcast(delta), scale = broadcast(o.scale);
  for (index_t c = 0; c < attention_tile::keys; c += lanes) {
    if (Masked && (c >= seen.end || c + lanes <= seen.begin)) {
      simd::store(p + c, simd::zero());
      simd::store(d_scores + c, simd::zero());
      continue;
    }
    f32x16 z = simd::load(p + c);
    if constexpr (Capped) z = simd::tanh(z * into_cap);
    f32x16 e = simd::exp(simd::fma(z, factor, minus));
    f32x16 d = e * (simd::load(d_scores + c) - mean) * scale;
    if constexpr (Capped) d = d * simd::fma(simd::negate(z), z, broadcast(1.0f));
    if constexpr (Masked) {
      attention_interval const kept{seen.begin - c, seen.end - c};
      e = attention_keep(kept, e, simd::zero());
      d = attention_keep(kept, d, simd::zero());
    }
    simd::store(p + c, e);
    simd::store(d_scores + c, d);
  }
}

/// p and the gradients of the scores of one tile.
inline void attention_backward_scores(attention_options const& o, attention_block const& block,
                                      attention_backward_scratch& s) {
  constexpr index_t stride = attention_backward_scratch::keys;
  attention_row_groups(block.queries, [&](index_t q, index_t rows) {
    auto const seen = block.keys_of(q, rows);
    index_t const first = seen.begin / lanes * lanes, vectors = ceil_div(seen.end - first, lanes), at = q * stride + first;
    if (seen.empty()) return;
    attention_rows_product<attention_operand::by_row>(rows, vectors, o.head_width, s.q + q * s.padded, s.padded,
                                                      s.k_columns + first, stride, s.p + at, stride, false);
    attention_rows_product<attention_operand::by_row>(rows, vectors, o.head_width, s.d_out + q * s.padded, s.padded,
                                                      s.v_columns + first, stride, s.d_scores + at, stride, false);
  });
  bool const whole = block.whole(), capped = o.soft_cap > 0;
  auto const kernel = whole ? capped ? attention_score_gradients<false, true> : attention_score_gradients<false, false>
                            : capped ? attention_score_gradients<true, true> : attention_score_gradients<true, false>;
  for (index_t q = 0; q < block.queries; ++q)
    kernel(o, block.keys_of(q), s.log_sum_exp[q], s.delta[q], s.p + q * stride, s.d_scores + q * stride);
}

/// dk, dv += (or =) one tile's part.
inline void attention_backward_keys(attention_block const& block, attention_backward_scratch& s, float* gradient, bool add) {
  constexpr index_t stride = attention_backward_scratch::keys;
  auto const product = [&](float const* scores, float const* rows_of_queries, float* out) {
    attention_row_groups(block.keys, [&](index_t key, index_t rows) {
      auto const by = block.queries_of(key, rows);
      attention_rows_product<attention_operand::by_depth>(rows, s.padded / lanes, by.end - by.begin,
                                                          scores + by.begin * stride + key, stride,
                                                          rows_of_queries + by.begin * s.padded, s.padded,
                                                          out + key * s.padded, s.padded, add);
    });
  };
  product(s.d_scores, s.q, gradient);
  product(s.p, s.d_out, gradient + attention_backward_scratch::keys * s.padded);
}

/// Returns when `done` is at least `needed`: spins briefly, then sleeps.
inline void attention_wait(std::atomic<int>& done, int needed) {
  int spin = 0;
  for (int seen; (seen = done.load(std::memory_order_acquire)) < needed;)
    if (++spin > 2000) done.wait(seen, std::memory_order_acquire);
}

/// dq += (or =) one tile's part, in its turn; the last block of keys rounds the sums to T.
template <class T>
void attention_backward_queries(attention_backward_shared<T> const& shared, attention_key_item const& item, int head,
                                index_t tile, attention_block const& block, attention_backward_scratch& s) {
  auto const& a = shared.args;
  auto const& o = a.options;
  index_t const row = item.token + block.query;
  T* const target = &a.dq(row, head * index_t(o.head_width));
  float* sums = shared.dq + (head * a.q.extent(0) + row) * s.padded;
  index_t stride = s.padded;
  if constexpr (std::is_same_v<T, float>)
    if (shared.in_place(o)) sums = target, stride = a.dq.stride(0);
  auto const blocks = attention_key_blocks(block.visible, block.query, block.queries);
  int const before = int(item.key / attention_key_block - blocks.begin);
  auto& done = shared.blocks_done[(shared.first_tile[item.sequence] + tile) * o.query_heads + head];
  attention_wait(done, before);
  attention_row_groups(block.queries, [&](index_t q, index_t rows) {
    auto const keys = block.keys_of(q, rows);
    attention_rows_product<attention_operand::by_row>(rows, s.padded / lanes, keys.end - keys.begin,
                                                      s.d_scores + q * attention_backward_scratch::keys + keys.begin,
                                                      attention_backward_scratch::keys, s.k + keys.begin * s.padded,
                                                      s.padded, sums + q * stride, stride, before > 0);
  });
  if (before + 1 == blocks.end - blocks.begin)
    attention_unpack(sums, stride, block.queries, index_t(o.head_width), target, a.dq.stride(0));
  done.store(before + 1, std::memory_order_release);
  done.notify_all();
}

/// One leaf of dk and dv: for each query head of the group, its queries in order. Null when none sees the block.
template <class T>
float* attention_backward_leaf(attention_backward_shared<T> const& shared, attention_key_item const& item, index_t leaf,
                               attention_backward_scratch& s) {
  auto const& a = shared.args;
  auto const& o = a.options;
  index_t const width = o.head_width, group = o.query_heads / o.kv_heads;
  index_t const leaf_begin = leaf * o.query_leaf, leaf_end = std::min(leaf_begin + o.query_leaf, item.visible.length);
  float* gradient = nullptr;
  for (index_t h = 0; h < group; ++h) {
    index_t const head = item.kv_head * group + h;
    for (index_t tile = 0, query = leaf_begin; query < leaf_end; ++tile, query += attention_tile::queries) {
      index_t const queries = std::min(attention_tile::queries, leaf_end - query), row = item.token + query;
      attention_block const block{item.visible, query, queries, item.key, item.keys};
      if (block.keys_of(0, queries).empty()) continue;
      attention_pack(&a.q(row, head * width), a.q.stride(0), queries, width, s.q, s.padded);
      attention_pack(&a.d_out(row, head * width), a.d_out.stride(0), queries, width, s.d_out, s.padded);
      for (index_t q = 0; q < queries; ++q) {
        s.log_sum_exp[q] = a.log_sum_exp(head, row + q);
        s.delta[q] = shared.delta[head * a.q.extent(0) + row + q];
      }
      attention_backward_scores(o, block, s);
      bool const add = gradient != nullptr;
      if (!add) gradient = s.spare[--s.spares];
      attention_backward_keys(block, s, gradient, add);
      attention_backward_queries(shared, item, int(head), leaf * shared.tiles_per_leaf() + tile, block, s);
    }
  }
  return gradient;
}

template <class T>
void attention_backward_item(attention_backward_shared<T> const& shared, attention_key_item const& item,
                             attention_backward_scratch& s) {
  auto const& a = shared.args;
  auto const& o = a.options;
  index_t const width = o.head_width, column = item.kv_head * width, row = item.token + item.key;
  attention_pack(&a.k(row, column), a.k.stride(0), item.keys, width, s.k, s.padded);
  attention_pack_transposed(&a.k(row, column), a.k.stride(0), item.keys, width, s.k_columns);
  attention_pack_transposed(&a.v(row, column), a.v.stride(0), item.keys, width, s.v_columns);
  tree<attention_gradient_node> sum;
  auto const combine = [&](attention_gradient_node& left, attention_gradient_node const& right) {
    if (!right.values) return;
    if (!left.values) {
      left = right;
      return;
    }
    for (index_t i = 0; i < s.gradient_size(); i += lanes)
      simd::store(left.values + i, simd::load(left.values + i) + simd::load(right.values + i));
    s.spare[s.spares++] = right.values;
  };
  for (index_t leaf = 0; leaf < ceil_div(item.visible.length, o.query_leaf); ++leaf)
    sum.push({attention_backward_leaf(shared, item, leaf, s)}, combine);
  float* const total = sum.finish(combine).values;
  attention_unpack(total, s.padded, item.keys, width, &a.dk(row, column), a.dk.stride(0));
  attention_unpack(total + attention_backward_scratch::keys * s.padded, s.padded, item.keys, width, &a.dv(row, column),
                   a.dv.stride(0));
  s.spare[s.spares++] = total;
}

/// delta [query_heads][tokens] = the sum of d_out * out of each row.
template <class T>
void attention_delta(exec::host_context& ctx, attention_backward_args<T> const& a, float* delta) {
  index_t const tokens = a.q.extent(0), heads = a.options.query_heads, width = a.options.head_width;
  ctx.pool().for_range(tokens, ceil_div(16384, heads * width), [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t h = 0; h < heads; ++h) {
        T const *x = &a.d_out(t, h * width), *y = &a.out(t, h * width);
        simd::f32x16 sum = simd::zero();
        for (index_t j = 0; j < width; j += lanes) {
          int const n = int(std::min<index_t>(lanes, width - j));
          sum = simd::fma(simd::load(x + j, n), simd::load(y + j, n), sum);
        }
        delta[h * tokens + t] = simd::reduce_add(sum);
      }
  });
}

/// d_sinks += minus the sum over all queries of (the sink's share of the softmax) * delta.
template <class T>
void attention_sink_gradients(exec::host_context& ctx, attention_backward_args<T> const& a, float const* delta) {
  auto const& o = a.options;
  auto const add = [](float& left, float right) { left = left + right; };
  ctx.pool().for_each(o.query_heads, [&](index_t h) {
    tree<float> sum;
    for (std::size_t s = 0; s + 1 < a.sequence_begins.size(); ++s)
      for (index_t first = a.sequence_begins[s]; first < a.sequence_begins[s + 1]; first += o.query_leaf) {
        float chain = 0;
        for (index_t t = first; t < std::min(first + o.query_leaf, a.sequence_begins[s + 1]); ++t)
          chain = std::fma(-simd::exp(a.sinks[h] - a.log_sum_exp(h, t)), delta[h * a.q.extent(0) + t], chain);
        sum.push(chain, add);
      }
    a.d_sinks[h] = a.d_sinks[h] + sum.finish(add);
  });
}

}  // namespace tenon::ops::detail

namespace tenon::ops {

/// @test tests/ops/attention_test.cpp
template <>
struct kernel_for<attention_backward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, attention_backward_args<T> const& a) {
    detail::check_attention(a);
    auto const& o = a.options;
    index_t const tokens = a.q.extent(0), sequences = index_t(a.sequence_begins.size()) - 1;
    for (auto const& m : {matrix_view<T const>(a.dq), a.d_out})
      detail::check_attention_matrix(m, tokens, index_t(o.query_heads) * o.head_width);
    for (auto const& m : {a.dk, a.dv}) detail::check_attention_matrix(m, tokens, index_t(o.kv_heads) * o.head_width);
    arena& memory = ctx.scratch();
    arena_scope scope(memory);
    detail::attention_backward_shared<T> shared{a, memory.allocate<float>(o.query_heads * tokens), nullptr,
                                                memory.allocate<index_t>(sequences + 1), nullptr};
    index_t longest = 0;
    shared.first_tile[0] = 0;
    for (index_t s = 0; s < sequences; ++s) {
      index_t const length = a.sequence_begins[std::size_t(s) + 1] - a.sequence_begins[std::size_t(s)];
      shared.first_tile[s + 1] = shared.first_tile[s] + ceil_div(length, o.query_leaf) * shared.tiles_per_leaf();
      longest = std::max(longest, length);
    }
    index_t const counters = shared.first_tile[sequences] * o.query_heads;
    shared.blocks_done = memory.allocate<std::atomic<int>>(counters);
    for (index_t i = 0; i < counters; ++i) std::construct_at(shared.blocks_done + i, 0);
    if (!shared.in_place(o)) shared.dq = memory.allocate<float>(o.query_heads * tokens * round_up(o.head_width, lanes));
    int const levels = tree_levels(ceil_div(longest, o.query_leaf)), threads = ctx.pool().size();
    auto* const scratch = memory.allocate<detail::attention_backward_scratch>(threads);
    for (int t = 0; t < threads; ++t) std::construct_at(scratch + t, memory, o.head_width, levels);
    detail::attention_delta(ctx, a, shared.delta);
    if (a.sinks && a.d_sinks) detail::attention_sink_gradients(ctx, a, shared.delta);
    detail::attention_for_each_unit(
        ctx.pool(), a.sequence_begins, o.kv_heads, false, [&](index_t s, index_t unit, index_t kv_head, int thread) {
          index_t const begin = a.sequence_begins[std::size_t(s)], length = a.sequence_begins[std::size_t(s) + 1] - begin;
          index_t const key = unit * attention_key_block;
          detail::attention_backward_item(shared,
                                          {{o.causal, o.window, length}, s, begin, key,
                                           std::min(attention_key_block, length - key), int(kv_head)},
                                          scratch[thread]);
        });
  }
};

}  // namespace tenon::ops
