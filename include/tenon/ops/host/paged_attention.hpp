// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention over paged keys and values on the host.
///
/// A row is one query of one query head. Rows that share a KV head are taken together, a few at a time in registers, so
/// that each block of keys is read from memory once for up to `paged_most_rows` of them.
#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include <tenon/exec/host/math.hpp>
#include <tenon/ops/host/attention_tile.hpp>
#include <tenon/ops/paged_attention.hpp>
#include <tenon/policy/device.hpp>

namespace tenon::ops::detail {

inline constexpr index_t paged_block_tiles = attention_key_block / lanes;
/// Rows that walk over the keys together: enough that reading keys costs nothing beside computing.
inline constexpr index_t paged_most_rows = 64;
/// Blocks of keys from which on several threads take an item together: below, waiting for each other costs more.
inline constexpr index_t paged_together_blocks = 8;
/// From this many rows on, elements that are not floats are made floats once for all of them.
inline constexpr index_t paged_unpack_rows = 3 * attention_tile::rows;

/// Feature `i` of the keys of all sixteen tokens.
template <class E>
TENON_ALWAYS_INLINE simd::f32x16 keys_of(kv_tile<E> const& t, index_t i) {
  return simd::load(t.k + i * lanes);
}
TENON_ALWAYS_INLINE simd::f32x16 keys_of(kv_tile<kv::q8> const& t, index_t i) {
  return simd::load(t.k + i * lanes) * simd::load(t.k_scale);
}
/// Sixteen features, which lie at `offset`, of the value of a token.
template <class E>
TENON_ALWAYS_INLINE simd::f32x16 values_of(kv_tile<E> const& t, index_t offset, index_t) {
  return simd::load(t.v + offset);
}
TENON_ALWAYS_INLINE simd::f32x16 values_of(kv_tile<kv::q8> const& t, index_t offset, index_t token) {
  return simd::load(t.v + offset) * simd::broadcast(t.v_scale[token]);
}
/// All of a tile as floats.
template <class E>
void unpack_tile(kv_tile<E> const& from, index_t padded, kv_tile<float> const& to) {
  for (index_t i = 0; i < padded; ++i) simd::store(to.k + i * lanes, keys_of(from, i));
  kv_values const place{padded};
  for (index_t t = 0; t < lanes; ++t)
    for (index_t i = 0; i < padded; i += lanes) simd::store(to.v + place.at(t, i), values_of(from, place.at(t, i), t));
}

template <class E, int Tiles, int... V>
TENON_ALWAYS_INLINE void load_keys(simd::f32x16 (&k)[Tiles], kv_tile<E> const (&tiles)[Tiles], index_t feature,
                                   std::integer_sequence<int, V...>) {
  ((k[V] = keys_of(tiles[V], feature), attention_pin(k[V])), ...);
}
template <class E, int Vectors, int... V>
TENON_ALWAYS_INLINE void load_values(simd::f32x16 (&v)[Vectors], kv_tile<E> const& tile, index_t offset, index_t token,
                                     std::integer_sequence<int, V...>) {
  ((v[V] = values_of(tile, offset + V * lanes, token), attention_pin(v[V])), ...);
}

/// The tiles of a block of keys, and of the block after it: what is read of one is asked for of the other, as the
/// processor does not follow from page to page by itself.
template <class E>
struct paged_tiles {
  kv_tile<E> here[paged_block_tiles], next[paged_block_tiles];
};

/// z [Rows, 64] = the scores of rows q [Rows, width] and the keys of tiles [first, first + Tiles).
template <class E, int Rows, int Tiles, bool Ahead>
TENON_NOINLINE void paged_score_kernel(paged_tiles<E> const& tiles, index_t first, index_t width, float const* q,
                                       index_t q_stride, float* z) {
  constexpr auto all = std::make_integer_sequence<int, Rows * Tiles>{};
  kv_tile<E> here[Tiles];
  std::copy_n(tiles.here + first, Tiles, here);
  simd::f32x16 sum[Rows * Tiles], k[Tiles];
  attention_begin<Tiles>(sum, z, attention_key_block, false, all);
  for (index_t i = 0; i < width; ++i) {
    if constexpr (Ahead)
      for (int t = 0; t < Tiles; ++t) simd::prefetch_far(tiles.next[first + t].k + i * lanes);
    load_keys(k, here, i, std::make_integer_sequence<int, Tiles>{});
    attention_fma<attention_operand::by_row>(sum, k, q + i, q_stride, std::make_integer_sequence<int, Rows>{});
  }
  attention_end<Tiles>(sum, z + first * lanes, attention_key_block, all);
}

/// out [Rows, 16 Vectors] = out * rescale + p [Rows, keys] values; the features of token t lie at first + t * stride.
template <class E, int Rows, int Vectors, bool Ahead>
TENON_NOINLINE void paged_output_kernel(paged_tiles<E> const& tiles, attention_interval keys, index_t first,
                                        index_t stride, float const* p, float const* rescale, float* out,
                                        index_t out_stride) {
  constexpr auto all = std::make_integer_sequence<int, Rows * Vectors>{};
  simd::f32x16 sum[Rows * Vectors], v[Vectors];
  attention_begin<Vectors>(sum, out, out_stride, true, all);
  for (int i = 0; i < Rows * Vectors; ++i) sum[i] = sum[i] * simd::broadcast(rescale[i / Vectors]);
  for (index_t t = keys.begin / lanes; t * lanes < keys.end; ++t) {
    kv_tile<E> const tile = tiles.here[t], next = tiles.next[t];
    float const* const p_of_tile = p + t * lanes;
    auto const tokens = attention_interval{keys.begin - t * lanes, keys.end - t * lanes}.within(lanes);
    for (index_t token = tokens.begin, at = first + token * stride; token < tokens.end; ++token, at += stride) {
      if constexpr (Ahead)
        for (int i = 0; i < Vectors; ++i) simd::prefetch_far(next.v + at + i * lanes);
      load_values(v, tile, at, token, std::make_integer_sequence<int, Vectors>{});
      attention_fma<attention_operand::by_row>(sum, v, p_of_tile + token, attention_key_block,
                                               std::make_integer_sequence<int, Rows>{});
    }
  }
  attention_end<Vectors>(sum, out, out_stride, all);
}

template <class E, bool Ahead, int... I>
auto paged_score_kernel_for(index_t rows, index_t tiles, std::integer_sequence<int, I...>) {
  constexpr int most = attention_tile::vectors;
  static constexpr decltype(&paged_score_kernel<E, 1, 1, Ahead>) table[] = {
      paged_score_kernel<E, I / most + 1, I % most + 1, Ahead>...};
  return table[(rows - 1) * most + tiles - 1];
}
template <class E, bool Ahead, int... I>
auto paged_output_kernel_for(index_t rows, index_t vectors, std::integer_sequence<int, I...>) {
  constexpr int most = attention_tile::vectors;
  static constexpr decltype(&paged_output_kernel<E, 1, 1, Ahead>) table[] = {
      paged_output_kernel<E, I / most + 1, I % most + 1, Ahead>...};
  return table[(rows - 1) * most + vectors - 1];
}
using paged_kernels = std::make_integer_sequence<int, attention_tile::rows * attention_tile::vectors>;

/// function(first, count) for [begin, end) in equal pieces of at most attention_tile::vectors.
template <class Function>
TENON_ALWAYS_INLINE void for_vectors(index_t begin, index_t end, Function&& function) {
  for (index_t pieces = ceil_div(end - begin, attention_tile::vectors); pieces > 0; --pieces) {
    index_t const count = ceil_div(end - begin, pieces);
    function(begin, count);
    begin += count;
  }
}

/// The largest of a row's scores z [64] that it sees, times the factor, or `largest`. @param kept the keys that it sees
/// @param tiles those that have scores
template <bool Masked, bool Capped>
float paged_maximum_of_row(attention_options const& o, attention_interval kept, attention_interval tiles, float* z,
                           float largest) {
  using simd::f32x16, simd::broadcast;
  f32x16 const factor = broadcast(Capped ? o.soft_cap : o.scale), lowest = broadcast(-simd::detail::infinity);
  f32x16 maxima = broadcast(largest);
  for (index_t t = tiles.begin; t < tiles.end; ++t) {
    f32x16 x = simd::load(z + t * lanes);
    if constexpr (Capped) simd::store(z + t * lanes, x = tanh(x * broadcast(o.scale / o.soft_cap)));
    x = x * factor;
    if constexpr (Masked) x = attention_keep({kept.begin - t * lanes, kept.end - t * lanes}, x, lowest);
    maxima = max(maxima, x);
  }
  return simd::reduce_max(maxima);
}
/// z becomes p. Returns their sum.
template <bool Masked>
float paged_exponentials_of_row(float factor, attention_interval kept, attention_interval tiles, float* z,
                                float maximum) {
  using simd::f32x16, simd::broadcast;
  f32x16 const minus = simd::negate(broadcast(maximum));
  f32x16 sum = simd::zeros();
  for (index_t t = tiles.begin; t < tiles.end; ++t) {
    f32x16 p = exp(fma(simd::load(z + t * lanes), broadcast(factor), minus));
    if constexpr (Masked) p = attention_keep({kept.begin - t * lanes, kept.end - t * lanes}, p, simd::zeros());
    simd::store(z + t * lanes, p);
    sum = sum + p;
  }
  return simd::reduce_add(sum);
}

/// Rows [begin, begin + count) of a sequence's rows of one KV head; row r is query r / group of head r % group.
struct paged_item {
  paged_sequence const* sequence;
  int kv_head;
  index_t begin, count;
};

/// The state of an item's rows.
struct paged_rows {
  index_t padded;
  float *q, *out;        ///< [rows][padded]
  float *maximum, *sum;  ///< [rows + 15]

  template <class Memory>
  paged_rows(Memory& a, index_t padded_width)
      : padded(padded_width), q(a.template allocate<float>(paged_most_rows * padded)),
        out(a.template allocate<float>(paged_most_rows * padded)),
        maximum(a.template allocate<float>(paged_most_rows + lanes)),
        sum(a.template allocate<float>(paged_most_rows + lanes)) {}
};
/// A thread's memory.
struct paged_scratch : paged_rows {
  float* scores;    ///< [attention_tile::rows][64]
  float* unpacked;  ///< a block of tiles

  template <class Memory>
  paged_scratch(Memory& a, index_t padded_width)
      : paged_rows(a, padded_width), scores(a.template allocate<float>(attention_tile::rows * attention_key_block)),
        unpacked(a.template allocate<float>(2 * attention_key_block * padded)) {}
};

/// A block of keys as the rows of an item see it.
struct paged_view {
  attention_block block;
  index_t group, first_row;
  /// Keys that any of `count` rows from `r` on sees.
  attention_interval keys_of(index_t r, index_t count = 1) const {
    index_t const query = (first_row + r) / group;
    return block.keys_of(query - first_row / group, (first_row + r + count - 1) / group - query + 1);
  }
  /// The tiles that hold them.
  attention_interval tiles_of(index_t r, index_t count) const {
    auto const keys = keys_of(r, count);
    return {keys.begin / lanes, ceil_div(keys.end, lanes)};
  }
};

/// All keys of the tiles are kept.
inline bool covers(attention_interval kept, attention_interval tiles) {
  return kept.begin <= tiles.begin * lanes && kept.end >= tiles.end * lanes;
}

/// An item with what follows from it.
template <class T, class E>
struct paged_task {
  paged_attention_args<T, E> const& a;
  paged_item item;
  index_t group = a.options.query_heads / a.options.kv_heads;
  index_t query = item.begin / group, queries = (item.begin + item.count - 1) / group - query + 1;
  attention_visibility visible{a.options.causal, a.options.window, item.sequence->position + item.sequence->tokens};
  attention_interval blocks = attention_key_blocks(visible, item.sequence->position + query, queries);

  paged_view view(index_t b) const {
    index_t const key = b * attention_key_block, position = item.sequence->position + query;
    return {{visible, position, queries, key, std::min(attention_key_block, visible.length - key)}, group, item.begin};
  }
  void find_tiles(index_t b, kv_tile<E>* to) const {
    auto const tiles = view(b).tiles_of(0, item.count);
    for (index_t t = tiles.begin; t < tiles.end; ++t)
      to[t] = tile_of(a.cache, *item.sequence, item.kv_head, b * paged_block_tiles + t);
  }
  /// function(b, tiles) for the blocks in order.
  template <class Function>
  void for_blocks(attention_interval some, Function&& function) const {
    paged_tiles<E> tiles{};
    find_tiles(some.begin, tiles.next);
    for (index_t b = some.begin; b < some.end; ++b) {
      std::copy_n(tiles.next, paged_block_tiles, tiles.here);
      if (b + 1 < some.end) find_tiles(b + 1, tiles.next);
      function(b, tiles);
    }
  }
  /// Where row `r` lies in q and out.
  std::pair<index_t, index_t> place(index_t r) const {
    index_t const row = item.begin + r;
    return {item.sequence->row + row / group, (item.kv_head * group + row % group) * a.options.head_width};
  }
  void begin_rows(paged_rows const& s) const {
    std::fill_n(s.out, item.count * s.padded, 0.0f);
    for (index_t r = 0; r < item.count; ++r) {
      auto const [row, column] = place(r);
      attention_pack(&a.q(row, column), a.q.stride(0), 1, a.options.head_width, s.q + r * s.padded, s.padded);
      s.maximum[r] = a.sinks ? a.sinks[column / a.options.head_width] : -simd::detail::infinity;
      s.sum[r] = a.sinks ? 1.0f : 0.0f;
    }
  }
  /// Features [first, first + count) of all rows are complete.
  void end_rows(paged_rows const& s, index_t first, index_t count) const {
    index_t const width = std::min(count, a.options.head_width - first);
    for (index_t r = 0; r < item.count; ++r) {
      auto const [row, column] = place(r);
      float* const out = s.out + r * s.padded + first;
      simd::f32x16 const sum = simd::broadcast(s.sum[r]);
      for (index_t j = 0; j < count; j += lanes) simd::store(out + j, simd::load(out + j) / sum);
      attention_unpack(out, s.padded, 1, width, &a.out(row, column + first), a.out.stride(0));
    }
  }
};

/// scores [count, 64] of rows [r, r + count), at most attention_tile::rows.
template <bool Ahead, class E>
void paged_scores(attention_options const& o, attention_interval some, index_t r, index_t count,
                  paged_tiles<E> const& tiles, paged_rows const& s, float* scores) {
  for_vectors(some.begin, some.end, [&](index_t t, index_t n) {
    paged_score_kernel_for<E, Ahead>(count, n, paged_kernels{})(tiles, t, o.head_width, s.q + r * s.padded, s.padded,
                                                                scores);
  });
}
/// The outputs' features in the chunk that begins with feature `chunk`, one block of keys further.
template <bool Ahead, class E>
void paged_outputs(attention_interval keys, index_t r, index_t count, index_t chunk, paged_tiles<E> const& tiles,
                   float const* p, float const* rescale, paged_rows const& s) {
  kv_values const place{s.padded};
  index_t const width = place.width(chunk);
  for_vectors(chunk / lanes, (chunk + width) / lanes, [&](index_t j, index_t n) {
    paged_output_kernel_for<E, Ahead>(count, n, paged_kernels{})(tiles, keys, place.at(0, j * lanes), width, p, rescale,
                                                                 s.out + r * s.padded + j * lanes, s.padded);
  });
}

/// maximum [count] = the largest of `before` and of what rows [r, r + count) see of a block.
inline void paged_maxima(attention_options const& o, paged_view const& view, index_t r, index_t count, float* scores,
                         float const* before, float* maximum) {
  auto const tiles = view.tiles_of(r, count);
  bool const capped = o.soft_cap > 0;
  for (index_t i = 0; i < count; ++i) {
    auto const kept = view.keys_of(r + i);
    auto const largest = !covers(kept, tiles)
                             ? capped ? paged_maximum_of_row<true, true> : paged_maximum_of_row<true, false>
                         : capped ? paged_maximum_of_row<false, true>
                                  : paged_maximum_of_row<false, false>;
    maximum[i] = largest(o, kept, tiles, scores + i * attention_key_block, before[i]);
  }
}
/// The scores become p; sum [count] = the sum of each row's.
inline void paged_exponentials(attention_options const& o, paged_view const& view, index_t r, index_t count,
                               float* scores, float const* maximum, float* sum) {
  auto const tiles = view.tiles_of(r, count);
  for (index_t i = 0; i < count; ++i) {
    auto const kept = view.keys_of(r + i);
    auto const exponentials = covers(kept, tiles) ? paged_exponentials_of_row<false> : paged_exponentials_of_row<true>;
    sum[i] =
        exponentials(o.soft_cap > 0 ? o.soft_cap : o.scale, kept, tiles, scores + i * attention_key_block, maximum[i]);
  }
}
/// What sixteen rows' outputs so far are multiplied by when the maximum rises.
inline simd::f32x16 paged_rescale(simd::f32x16 before, simd::f32x16 maximum) {
  // A row that has seen nothing yet has outputs and sum 0: any finite factor does.
  return select(simd::broadcast(-simd::detail::infinity) < before, exp(before - maximum), simd::zeros());
}

/// Rows [r, r + count), at most attention_tile::rows, of an item against one block of keys.
template <bool Ahead, class E>
void paged_attention_rows(attention_options const& o, paged_view const& view, index_t r, index_t count,
                          paged_tiles<E> const& tiles, paged_scratch const& s) {
  auto const keys = view.keys_of(r, count);
  if (keys.empty()) return;
  paged_scores<Ahead>(o, view.tiles_of(r, count), r, count, tiles, s, s.scores);
  float maximum[lanes] = {}, sum[lanes] = {}, rescale[lanes];
  paged_maxima(o, view, r, count, s.scores, s.maximum + r, maximum);
  paged_exponentials(o, view, r, count, s.scores, maximum, sum);
  simd::f32x16 const factor = paged_rescale(simd::load(s.maximum + r), simd::load(maximum));
  store(rescale, factor);
  store(sum, fma(simd::load(s.sum + r), factor, simd::load(sum)));
  std::copy_n(maximum, count, s.maximum + r);
  std::copy_n(sum, count, s.sum + r);
  for (index_t chunk = 0; chunk < s.padded; chunk += kv_values::chunk)
    paged_outputs<Ahead>(keys, r, count, chunk, tiles, s.scores, rescale, s);
}
/// All rows of an item against one block of keys.
template <class E>
void paged_attention_block(attention_options const& o, paged_view const& view, index_t rows,
                           paged_tiles<E> const& tiles, paged_scratch const& s) {
  attention_row_groups(rows, [&](index_t r, index_t count) {
    if (r == 0) paged_attention_rows<true>(o, view, r, count, tiles, s);
    else paged_attention_rows<false>(o, view, r, count, tiles, s);
  });
}

/// An item on one thread.
template <class T, class E>
void paged_attention_item(paged_task<T, E> const& task, paged_scratch const& s) {
  auto const& o = task.a.options;
  index_t const rows = task.item.count;
  bool const unpack = !std::is_same_v<E, float> && rows >= paged_unpack_rows;
  paged_tiles<float> unpacked{};
  if (unpack)
    for (index_t t = 0; t < paged_block_tiles; ++t)
      unpacked.here[t] =
          unpacked.next[t] = {reinterpret_cast<std::byte*>(s.unpacked) + t * kv_tile<float>::bytes(s.padded), s.padded};
  task.begin_rows(s);
  task.for_blocks(task.blocks, [&](index_t b, paged_tiles<E> const& tiles) {
    auto const view = task.view(b);
    if (!unpack) return paged_attention_block(o, view, rows, tiles, s);
    auto const some = view.tiles_of(0, rows);
    for (index_t t = some.begin; t < some.end; ++t) unpack_tile(tiles.here[t], s.padded, unpacked.here[t]);
    paged_attention_block(o, view, rows, unpacked, s);
  });
  task.end_rows(s, 0, s.padded);
}

/// An item on all threads: first the scores and maxima of the blocks, which do not depend on each other, then, as the
/// maximum before each block is known now, the p of the blocks, then the outputs, a chunk of features each.
template <class T, class E>
void paged_attention_together(exec::host_context& ctx, paged_task<T, E> const& task) {
  auto const& o = task.a.options;
  arena_scope scope(ctx.scratch());
  index_t const first = task.blocks.begin, last = task.blocks.end;  // names of a binding cannot be captured
  index_t const rows = task.item.count, blocks = last - first, stride = round_up(rows, lanes);
  paged_rows const s(ctx.scratch(), task.a.cache.padded());
  float* const scores = ctx.scratch().template allocate<float>(blocks * rows * attention_key_block);
  // [blocks][stride] each; in the maxima, row 0 is the beginning
  float* const maxima = ctx.scratch().template allocate<float>((blocks + 1) * stride);
  float* const sums = ctx.scratch().template allocate<float>(blocks * stride);
  float* const rescales = ctx.scratch().template allocate<float>(blocks * stride);
  auto const scores_of = [&](index_t b, index_t r) { return scores + ((b - first) * rows + r) * attention_key_block; };
  auto const row_of = [&](float* x, index_t b, index_t r) { return x + (b - first) * stride + r; };
  auto const for_groups = [&](paged_view const& view, auto&& function) {
    attention_row_groups(rows, [&](index_t r, index_t count) {
      if (auto const keys = view.keys_of(r, count); !keys.empty()) function(r, count, keys);
    });
  };
  task.begin_rows(s);
  std::fill_n(maxima, (blocks + 1) * stride, -simd::detail::infinity), std::fill_n(sums, blocks * stride, 0.0f);
  std::copy_n(s.maximum, rows, maxima);
  index_t const grain = ceil_div(blocks, 4 * ctx.pool().size());
  ctx.pool().for_range(blocks, grain, [&](index_t begin, index_t end) {
    task.for_blocks({first + begin, first + end}, [&](index_t b, paged_tiles<E> const& tiles) {
      auto const view = task.view(b);
      for_groups(view, [&](index_t r, index_t count, attention_interval) {
        paged_scores<true>(o, view.tiles_of(r, count), r, count, tiles, s, scores_of(b, r));
        paged_maxima(o, view, r, count, scores_of(b, r), row_of(maxima, b + 1, r), row_of(maxima, b + 1, r));
      });
    });
  });
  for (index_t b = first; b < last; ++b)
    for (index_t r = 0; r < stride; r += lanes) {
      simd::f32x16 const before = simd::load(row_of(maxima, b, r));
      simd::f32x16 const maximum = max(before, simd::load(row_of(maxima, b + 1, r)));
      simd::store(row_of(maxima, b + 1, r), maximum);
      simd::store(row_of(rescales, b, r), paged_rescale(before, maximum));
    }
  ctx.pool().for_range(blocks, grain, [&](index_t begin, index_t end) {
    for (index_t b = first + begin; b < first + end; ++b) {
      auto const view = task.view(b);
      for_groups(view, [&](index_t r, index_t count, attention_interval) {
        paged_exponentials(o, view, r, count, scores_of(b, r), row_of(maxima, b + 1, r), row_of(sums, b, r));
      });
    }
  });
  for (index_t b = first; b < last; ++b)
    for (index_t r = 0; r < rows; ++r) s.sum[r] = std::fma(s.sum[r], *row_of(rescales, b, r), *row_of(sums, b, r));
  ctx.pool().for_each(ceil_div(s.padded, kv_values::chunk), [&](index_t i) {
    index_t const chunk = i * kv_values::chunk;
    task.for_blocks(task.blocks, [&](index_t b, paged_tiles<E> const& tiles) {
      for_groups(task.view(b), [&](index_t r, index_t count, attention_interval keys) {
        paged_outputs<true>(keys, r, count, chunk, tiles, scores_of(b, r), row_of(rescales, b, r), s);
      });
    });
    task.end_rows(s, chunk, kv_values{s.padded}.width(chunk));
  });
}

/// Sixteen features from `i` on of a token's key and value. @param at where those of the value lie
template <class E>
void put_features(kv_tile<E> const& tile, index_t token, index_t i, index_t at, simd::f32x16 k, simd::f32x16 v) {
  E keys[lanes];
  simd::store(keys, k);
  for (int l = 0; l < lanes; ++l) tile.k[(i + l) * lanes + token] = keys[l];
  simd::store(tile.v + at, v);
}
/// The scale of a row of numbers for int8; NaN when one of them is not finite.
template <class T>
float q8_scale(T const* x, index_t width) {
  simd::f32x16 largest = simd::zeros(), poison = simd::zeros();
  for (index_t i = 0; i < width; i += lanes) {
    auto const v = simd::load(x + i, int(std::min<index_t>(lanes, width - i)));
    largest = max(largest, simd::abs(v));
    poison = poison + v * simd::zeros();
  }
  return simd::reduce_max(largest) / 127.0f + simd::reduce_add(poison);
}
inline void q8_values(simd::f32x16 x, float scale, float* to) {
  if (scale > 0) simd::store(to, simd::round(x / simd::broadcast(scale)));
  else std::fill_n(to, lanes, 0.0f);
}

/// One token's key and value.
template <class T, class E>
void put_token(kv_tile<E> const& tile, index_t token, T const* k, T const* v, index_t width) {
  kv_values const place{round_up(width, lanes)};
  for (index_t i = 0; i < width; i += lanes) {
    int const n = int(std::min<index_t>(lanes, width - i));
    put_features(tile, token, i, place.at(token, i), simd::load(k + i, n), simd::load(v + i, n));
  }
}
template <class T>
void put_token(kv_tile<kv::q8> const& tile, index_t token, T const* k, T const* v, index_t width) {
  kv_values const place{round_up(width, lanes)};
  float const k_scale = tile.k_scale[token] = q8_scale(k, width), v_scale = tile.v_scale[token] = q8_scale(v, width);
  for (index_t i = 0; i < width; i += lanes) {
    int const n = int(std::min<index_t>(lanes, width - i));
    float keys[lanes], values[lanes];
    q8_values(simd::load(k + i, n), k_scale, keys);
    q8_values(simd::load(v + i, n), v_scale, values);
    for (int l = 0; l < lanes; ++l) {
      tile.k[(i + l) * lanes + token] = std::int8_t(keys[l]);
      tile.v[place.at(token, i) + l] = std::int8_t(values[l]);
    }
  }
}

}  // namespace tenon::ops::detail

namespace tenon::ops {

/// @test tests/ops/paged_attention_test.cpp
template <>
struct kernel_for<paged_attention_t, device::host> {
  template <class T, class E>
  static void run(exec::host_context& ctx, paged_attention_args<T, E> const& a) {
    detail::check_paged_attention(a);
    auto const& o = a.options;
    auto& pool = ctx.pool();
    arena_scope scope(ctx.scratch());
    index_t const group = o.query_heads / o.kv_heads;
    index_t count = 0;
    for (auto const& s : a.sequences) count += o.kv_heads * ceil_div(s.tokens * group, detail::paged_most_rows);
    auto* const items = ctx.scratch().allocate<detail::paged_item>(count);
    auto* next = items;
    for (auto const& s : a.sequences)
      for (index_t begin = 0, rows = s.tokens * group; begin < rows; begin += detail::paged_most_rows)
        for (int h = 0; h < o.kv_heads; ++h) *next++ = {&s, h, begin, std::min(detail::paged_most_rows, rows - begin)};
    // The longest first: what is handed out last is what the other threads wait for.
    auto const work_of = [&](detail::paged_item const& i) {
      return i.count * (i.sequence->position + (i.begin + i.count) / group);
    };
    std::sort(items, next, [&](auto const& x, auto const& y) { return work_of(x) > work_of(y); });
    auto* const scratch = ctx.scratch().allocate<detail::paged_scratch>(pool.size());
    for (int t = 0; t < pool.size(); ++t) std::construct_at(scratch + t, ctx.scratch(), a.cache.padded());
    std::atomic<index_t> handed_out{0};
    if (count < pool.size())  // the long ones, which come first
      for (; handed_out < count; ++handed_out) {
        detail::paged_task<T, E> const task{a, items[handed_out]};
        if (task.blocks.end - task.blocks.begin < detail::paged_together_blocks) break;
        detail::paged_attention_together(ctx, task);
      }
    auto const work = [&](int thread) {
      for (index_t i; (i = handed_out.fetch_add(1, std::memory_order_relaxed)) < count;)
        detail::paged_attention_item(detail::paged_task<T, E>{a, items[i]}, scratch[thread]);
    };
    if (count - handed_out > 1) pool.run(work);
    else work(0);
  }
};

/// @test tests/ops/paged_attention_test.cpp
template <>
struct kernel_for<kv_write_t, device::host> {
  template <class T, class E>
  static void run(exec::host_context& ctx, kv_write_args<T, E> const& a) {
    detail::check_kv_write(a);
    auto const write = [&](int thread, int threads) {
      index_t number = 0;
      for (auto const& s : a.sequences)
        for (index_t begin = s.position, last = s.position + s.tokens, end; begin < last; begin = end) {
          end = std::min(last, round_up(begin + 1, lanes));
          for (int h = 0; h < a.cache.kv_heads; ++h)
            if (number++ % threads == thread) put_tile(a, s, h, begin, end);
        }
    };
    if (a.k.size() < alone_values) write(0, 1);
    else ctx.pool().run([&](int thread) { write(thread, ctx.pool().size()); });
  }

 private:
  static constexpr index_t alone_values = 4096;  ///< fewer are written before other threads have begun
  /// Tokens [begin, end), which lie in one tile.
  template <class T, class E>
  static void put_tile(kv_write_args<T, E> const& a, paged_sequence const& s, int head, index_t begin, index_t end) {
    auto const tile = detail::tile_of(a.cache, s, head, begin / lanes);
    index_t const width = a.cache.head_width, column = head * width;
    for (index_t p = begin; p < end; ++p) {
      index_t const row = s.row + p - s.position;
      detail::put_token(tile, p % lanes, &a.k(row, column), &a.v(row, column), width);
    }
  }
};

}  // namespace tenon::ops
