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

/// A node of the tree of leaves: dk and dv of a block of keys, or nothing when no query of the leaf sees the block.
struct attention_gradient_node {
  float* values = nullptr;
};

/// One block of keys: its operands, and dk and dv so far.
struct attention_key_state {
  float *k, *k_columns, *v_columns;  ///< [keys][padded], then transposed: [head_width][keys]
  float* leaf;                       ///< the chain of the present leaf, [2][keys][padded], or null
  tree<attention_gradient_node> leaves;
};

/// A thread's memory for backward.
struct attention_backward_scratch {
  static constexpr index_t queries = attention_tile::queries, keys = attention_tile::keys;
  index_t padded;              ///< head_width, a multiple of 16
  float *q, *d_out;            ///< [queries][padded]
  float *p, *d_scores;         ///< [queries][keys]
  float *log_sum_exp, *delta;  ///< [queries]
  attention_key_state blocks[attention_tile::most_in_unit];
  float* spare[50 * attention_tile::most_in_unit];  ///< a stack of free buffers of dk and dv, [2][keys][padded] each
  int spares = 0;

  /// `leaves`: the most that a sequence has.
  template <class Memory>
  attention_backward_scratch(Memory& a, index_t head_width, index_t leaves, index_t blocks_in_unit)
      : padded(round_up(head_width, lanes)) {
    for (float** m : {&q, &d_out}) *m = a.template allocate<float>(queries * padded);
    for (float** m : {&p, &d_scores}) *m = a.template allocate<float>(queries * keys);
    for (float** m : {&log_sum_exp, &delta}) *m = a.template allocate<float>(queries);
    for (index_t i = 0; i < blocks_in_unit; ++i) {
      for (float** m : {&blocks[i].k, &blocks[i].k_columns, &blocks[i].v_columns})
        *m = a.template allocate<float>(keys * padded);
      for (int level = 0; level <= tree_levels(leaves); ++level)
        spare[spares++] = a.template allocate<float>(gradient_size());
    }
  }
  index_t gradient_size() const { return 2 * keys * padded; }
};

/// What all threads share.
template <class T>
struct attention_backward_shared {
  attention_backward_args<T> const& args;
  attention_call<attention_backward_args<T>> call;
  float* delta;                   ///< [query_heads][tokens]
  std::atomic<int>* blocks_done;  ///< of each tile of queries and query head: how many of its blocks of keys are in dq
  index_t* first_tile;            ///< of each sequence, among all tiles
  float* dq;                      ///< fp32 sums where dq itself cannot hold them, [query_heads][tokens][padded]
  index_t all_tiles = 0, most_leaves = 0;

  template <class Memory>
  attention_backward_shared(Memory& memory, attention_backward_args<T> const& given) : args(given), call(given) {
    auto const& o = args.options;
    for (index_t s = 0; s < sequences(); ++s) {
      all_tiles += tiles(s);
      most_leaves = std::max(most_leaves, ceil_div(length(s), o.query_leaf));
    }
    index_t const rows = o.query_heads * args.q.extent(0);
    delta = memory.template allocate<float>(rows);
    blocks_done = memory.template allocate<std::atomic<int>>(all_tiles * o.query_heads);
    first_tile = memory.template allocate<index_t>(sequences());
    bool const own = !in_place(o) && !args.part.length;
    dq = own ? memory.template allocate<float>(rows * round_up(o.head_width, lanes)) : args.part.carried;
  }
  void begin() {
    for (index_t i = 0; i < all_tiles * args.options.query_heads; ++i) std::construct_at(blocks_done + i, 0);
    index_t next = 0;
    for (index_t s = 0; s < sequences(); next += tiles(s++)) first_tile[s] = next;
  }
  index_t sequences() const { return index_t(call.query_begins().size()) - 1; }
  index_t length(index_t s) const {
    return call.query_begins()[std::size_t(s) + 1] - call.query_begins()[std::size_t(s)];
  }
  /// Tiles of queries of a sequence; none has queries of two leaves.
  index_t tiles(index_t s) const {
    index_t const leaf = args.options.query_leaf;
    return length(s) / leaf * tiles_per_leaf() + ceil_div(length(s) % leaf, attention_tile::queries);
  }
  /// dq can hold the sums when it is fp32 and whole vectors fit into a head.
  static bool in_place(attention_options const& o) { return attention_backward_carried<T>(o, 1) == 0; }
  index_t tiles_per_leaf() const { return ceil_div(args.options.query_leaf, attention_tile::queries); }
};

/// A few blocks of keys of one KV head of one sequence.
struct attention_key_item {
  attention_visibility visible;
  attention_extent extent;  ///< what is here
  index_t sequence;
  index_t query_token, key_token;  ///< the rows of q and of k that position 0 has, or would have
  index_t key, keys;               ///< positions [key, key + keys)
  int kv_head;
  index_t blocks() const { return ceil_div(keys, attention_key_block); }
  index_t block_keys(index_t b) const { return std::min(attention_key_block, keys - b * attention_key_block); }
};

/// p and the gradients of the scores of one query, in place of the scores `p` and of dot(d_out, v) in `d_scores`.
template <bool Masked, bool Capped>
void attention_score_gradients(attention_options const& o, attention_interval seen, float log_sum_exp, float delta,
                               float* p, float* d_scores) {
  using simd::f32x16, simd::broadcast;
  f32x16 const factor = broadcast(Capped ? o.soft_cap : o.scale),
               into_cap = broadcast(Capped ? o.scale / o.soft_cap : 0);
  f32x16 const minus = broadcast(-log_sum_exp), mean = broadcast(delta), scale = broadcast(o.scale);
  for (index_t c = 0; c < attention_tile::keys; c += lanes) {
    if (Masked && (c >= seen.end || c + lanes <= seen.begin)) {
      simd::store(p + c, simd::zeros());
      simd::store(d_scores + c, simd::zeros());
      continue;
    }
    f32x16 z = simd::load(p + c);
    if constexpr (Capped) z = simd::tanh(z * into_cap);
    f32x16 e = simd::exp(simd::fma(z, factor, minus));
    f32x16 d = e * (simd::load(d_scores + c) - mean) * scale;
    if constexpr (Capped) d = d * simd::fma(simd::negate(z), z, broadcast(1.0f));
    if constexpr (Masked) {
      attention_interval const kept{seen.begin - c, seen.end - c};
      e = attention_keep(kept, e, simd::zeros());
      d = attention_keep(kept, d, simd::zeros());
    }
    simd::store(p + c, e);
    simd::store(d_scores + c, d);
  }
}

/// p and the gradients of the scores of one tile.
inline void attention_backward_scores(attention_options const& o, attention_block const& block,
                                      attention_key_state const& keys, attention_backward_scratch& s,
                                      attention_prefetch& ahead) {
  constexpr index_t stride = attention_backward_scratch::keys;
  attention_row_groups(block.queries, [&](index_t q, index_t rows) {
    ahead.step();
    auto const seen = block.keys_of(q, rows);
    index_t const first = seen.begin / lanes * lanes, vectors = ceil_div(seen.end - first, lanes),
                  at = q * stride + first;
    if (seen.empty()) return;
    attention_rows_product<attention_operand::by_row>(rows, vectors, o.head_width, s.q + q * s.padded, s.padded,
                                                      keys.k_columns + first, stride, s.p + at, stride, false);
    attention_rows_product<attention_operand::by_row>(rows, vectors, o.head_width, s.d_out + q * s.padded, s.padded,
                                                      keys.v_columns + first, stride, s.d_scores + at, stride, false);
  });
  bool const whole = block.whole(), capped = o.soft_cap > 0;
  auto const kernel = whole ? capped ? attention_score_gradients<false, true> : attention_score_gradients<false, false>
                      : capped ? attention_score_gradients<true, true>
                               : attention_score_gradients<true, false>;
  for (index_t q = 0; q < block.queries; ++q)
    kernel(o, block.keys_of(q), s.log_sum_exp[q], s.delta[q], s.p + q * stride, s.d_scores + q * stride);
}

/// dk, dv += (or =) one tile's part.
inline void attention_backward_keys(attention_block const& block, attention_backward_scratch& s, float* gradient,
                                    bool add) {
  constexpr index_t stride = attention_backward_scratch::keys;
  auto const product = [&](float const* scores, float const* rows_of_queries, float* out) {
    attention_row_groups(block.keys, [&](index_t key, index_t rows) {
      auto const by = block.queries_of(key, rows);
      attention_rows_product<attention_operand::by_depth>(
          rows, s.padded / lanes, by.end - by.begin, scores + by.begin * stride + key, stride,
          rows_of_queries + by.begin * s.padded, s.padded, out + key * s.padded, s.padded, add);
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
                                index_t tile, attention_block const& block, float const* k,
                                attention_backward_scratch& s) {
  auto const& a = shared.args;
  auto const& o = a.options;
  index_t const row = item.query_token + block.query;
  T* const target = &a.dq(row, head * index_t(o.head_width));
  float* sums = shared.dq + (head * a.q.extent(0) + row) * s.padded;
  index_t stride = s.padded;
  if constexpr (std::is_same_v<T, float>)
    if (shared.in_place(o)) sums = target, stride = a.dq.stride(0);
  auto const blocks = attention_key_blocks(block.visible, block.query, block.queries);
  int const before = int(block.key / attention_key_block - blocks.begin);
  int const earlier =
      int(std::max<index_t>(0, attention_key_blocks(item.extent).begin - blocks.begin));  // calls' blocks
  auto& done = shared.blocks_done[(shared.first_tile[item.sequence] + tile) * o.query_heads + head];
  attention_wait(done, before - earlier);
  attention_row_groups(block.queries, [&](index_t q, index_t rows) {
    auto const keys = block.keys_of(q, rows);
    attention_rows_product<attention_operand::by_row>(
        rows, s.padded / lanes, keys.end - keys.begin, s.d_scores + q * attention_backward_scratch::keys + keys.begin,
        attention_backward_scratch::keys, k + keys.begin * s.padded, s.padded, sums + q * stride, stride, before > 0);
  });
  if (before + 1 == blocks.end - blocks.begin)
    attention_unpack(sums, stride, block.queries, index_t(o.head_width), target, a.dq.stride(0));
  done.store(before + 1 - earlier, std::memory_order_release);
  done.notify_all();
}

/// One tile of queries of one head against the item's blocks of keys.
template <class T>
void attention_backward_tile(attention_backward_shared<T> const& shared, attention_key_item const& item, index_t head,
                             index_t tile, index_t query, index_t queries, attention_backward_scratch& s) {
  auto const& a = shared.args;
  index_t const width = a.options.head_width, row = item.query_token + query;
  if (attention_block{item.visible, query, queries, item.key, item.keys}.keys_of(0, queries).empty()) return;
  attention_pack(&a.q(row, head * width), a.q.stride(0), queries, width, s.q, s.padded);
  attention_pack(&a.d_out(row, head * width), a.d_out.stride(0), queries, width, s.d_out, s.padded);
  for (index_t q = 0; q < queries; ++q) {
    s.log_sum_exp[q] = a.log_sum_exp(head, row + q);
    s.delta[q] = shared.delta[head * a.q.extent(0) + row + q];
  }
  index_t const after = query + queries, steps = item.blocks() * ceil_div(queries, attention_tile::rows);
  attention_prefetch ahead(std::min(attention_tile::queries, item.extent.query_end - after), steps);
  ahead.set(0, a.q, row + queries, head * width, width);
  ahead.set(1, a.d_out, row + queries, head * width, width);
  ahead.set(2, a.dq, row + queries, head * width, width);
  for (index_t b = 0; b < item.blocks(); ++b) {
    attention_block const block{item.visible, query, queries, item.key + b * attention_key_block, item.block_keys(b)};
    if (block.keys_of(0, queries).empty()) continue;
    auto& keys = s.blocks[b];
    attention_backward_scores(a.options, block, keys, s, ahead);
    bool const add = keys.leaf != nullptr;
    if (!add) keys.leaf = s.spare[--s.spares];
    attention_backward_keys(block, s, keys.leaf, add);
    attention_backward_queries(shared, item, int(head), tile, block, keys.k, s);
  }
}

/// One leaf (of those here) of dk and dv of all blocks of an item: for each query head of the group, its queries in order.
template <class T>
void attention_backward_leaf(attention_backward_shared<T> const& shared, attention_key_item const& item, index_t leaf,
                             attention_backward_scratch& s) {
  auto const& o = shared.args.options;
  index_t const group = o.query_heads / o.kv_heads, begin = item.extent.query_begin + leaf * o.query_leaf;
  index_t const end = std::min(begin + o.query_leaf, item.extent.query_end);
  for (index_t b = 0; b < item.blocks(); ++b) s.blocks[b].leaf = nullptr;
  for (index_t h = 0; h < group; ++h) {
    index_t tile = leaf * shared.tiles_per_leaf();
    for (index_t query = begin; query < end; query += attention_tile::queries, ++tile)
      attention_backward_tile(shared, item, item.kv_head * group + h, tile, query,
                              std::min(attention_tile::queries, end - query), s);
  }
}

template <class T>
void attention_backward_item(attention_backward_shared<T> const& shared, attention_key_item const& item,
                             attention_backward_scratch& s) {
  auto const& a = shared.args;
  auto const& o = a.options;
  index_t const width = o.head_width, column = item.kv_head * width, row = item.key_token + item.key;
  auto const combine = [&](attention_gradient_node& left, attention_gradient_node const& right) {
    if (!right.values) return;
    if (!left.values) {
      left = right;
      return;
    }
    for (index_t i = 0; i < s.gradient_size(); i += lanes)
      store(left.values + i, simd::load(left.values + i) + simd::load(right.values + i));
    s.spare[s.spares++] = right.values;
  };
  for (index_t b = 0; b < item.blocks(); ++b) {
    index_t const first = row + b * attention_key_block, keys = item.block_keys(b);
    attention_pack(&a.k(first, column), a.k.stride(0), keys, width, s.blocks[b].k, s.padded);
    attention_pack_transposed(&a.k(first, column), a.k.stride(0), keys, width, s.blocks[b].k_columns);
    attention_pack_transposed(&a.v(first, column), a.v.stride(0), keys, width, s.blocks[b].v_columns);
  }
  index_t const leaves = ceil_div(item.extent.query_end - item.extent.query_begin, o.query_leaf);
  for (index_t leaf = 0; leaf < leaves; ++leaf) {
    attention_backward_leaf(shared, item, leaf, s);
    for (index_t b = 0; b < item.blocks(); ++b) s.blocks[b].leaves.push({s.blocks[b].leaf}, combine);
  }
  for (index_t b = 0; b < item.blocks(); ++b) {
    float* dk = s.blocks[b].leaves.finish(combine).values;
    if (!dk) {  // no query here sees these keys
      dk = s.spare[--s.spares];
      std::fill_n(dk, s.gradient_size(), 0.0f);
    }
    float* const dv = dk + attention_backward_scratch::keys * s.padded;
    index_t const first = row + b * attention_key_block, keys = item.block_keys(b);
    auto const write = [&](auto to_dk, auto to_dv) {
      attention_unpack(dk, s.padded, keys, width, &to_dk(first, column), to_dk.stride(0));
      attention_unpack(dv, s.padded, keys, width, &to_dv(first, column), to_dv.stride(0));
    };
    if (a.part.length)
      write(columns_of(a.d_keys, 0, o.kv_heads * width), columns_of(a.d_keys, o.kv_heads * width, o.kv_heads * width));
    else write(a.dk, a.dv);
    s.spare[s.spares++] = dk;
  }
}

/// delta [query_heads][tokens] = the sum of d_out * out of each row.
template <class T>
void attention_delta(exec::host_context& ctx, attention_backward_args<T> const& a, float* delta) {
  index_t const tokens = a.q.extent(0), heads = a.options.query_heads, width = a.options.head_width;
  ctx.pool().for_range(tokens, ceil_div(16384, heads * width), [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t h = 0; h < heads; ++h) {
        T const *x = &a.d_out(t, h * width), *y = &a.out(t, h * width);
        simd::f32x16 sum = simd::zeros();
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
void attention_sink_gradients(exec::host_context& ctx, attention_backward_args<T> const& a,
                              std::span<index_t const> begins, float const* delta) {
  auto const& o = a.options;
  auto const add = [](float& left, float right) { left = left + right; };
  ctx.pool().for_each(o.query_heads, [&](index_t h) {
    tree<float> sum;
    for (std::size_t s = 0; s + 1 < begins.size(); ++s)
      for (index_t first = begins[s]; first < begins[s + 1]; first += o.query_leaf) {
        float chain = 0;
        for (index_t t = first; t < std::min(first + o.query_leaf, begins[s + 1]); ++t)
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
    auto const& o = a.options;
    detail::check_attention(a);
    detail::check_attention_gradients(a);
    arena_scope scope(ctx.scratch());
    detail::attention_backward_shared<T> shared(ctx.scratch(), a);
    index_t const in_unit = detail::attention_blocks_in_unit(shared.call.key_begins(), o.kv_heads, ctx.pool().size());
    auto* const scratch = ctx.scratch().allocate<detail::attention_backward_scratch>(ctx.pool().size());
    for (int t = 0; t < ctx.pool().size(); ++t)
      std::construct_at(scratch + t, ctx.scratch(), o.head_width, shared.most_leaves, in_unit);
    shared.begin();
    detail::attention_delta(ctx, a, shared.delta);
    if (a.sinks && a.d_sinks) detail::attention_sink_gradients(ctx, a, shared.call.query_begins(), shared.delta);
    auto const work = [&](detail::attention_unit const& u, int thread) {
      auto const e = shared.call.extent(u.length);
      detail::attention_key_item const item{
          {o.causal, o.window, e.length}, e,       u.sequence,   u.token - e.query_begin, u.token - e.key_begin,
          e.key_begin + u.first,          u.count, int(u.repeat)};
      detail::attention_backward_item(shared, item, scratch[thread]);
    };
    detail::attention_for_each_unit(ctx.pool(), shared.call.key_begins(), in_unit, o.kv_heads, false, work);
  }
  /// Bytes that `run` takes from the context's scratch memory.
  template <class T>
  static std::size_t scratch_bytes(attention_backward_args<T> const& a, int threads) {
    auto const& o = a.options;
    detail::attention_memory_count count;
    detail::attention_backward_shared<T> const shared(count, a);
    index_t const in_unit = detail::attention_blocks_in_unit(shared.call.key_begins(), o.kv_heads, threads);
    count.allocate<detail::attention_backward_scratch>(threads);
    for (int t = 0; t < threads; ++t)
      detail::attention_backward_scratch(count, o.head_width, shared.most_leaves, in_unit);
    return count.bytes;
  }
};

}  // namespace tenon::ops
