// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention over paged keys and values on the host.
///
/// A row is one query of one query head. Rows that share a KV head are taken together, a few at a time in registers, so
/// that each block of keys is read from memory once for up to `paged_most_rows` of them.
#include <algorithm>
#include <atomic>
#include <limits>
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
/// Sixteen features, from 16 `j` on, of the value of one token.
template <class E>
TENON_ALWAYS_INLINE simd::f32x16 values_of(kv_tile<E> const& t, index_t j, index_t token) {
  return simd::load(t.v + (j * lanes + token) * lanes);
}
TENON_ALWAYS_INLINE simd::f32x16 values_of(kv_tile<kv::q8> const& t, index_t j, index_t token) {
  return simd::load(t.v + (j * lanes + token) * lanes) * simd::broadcast(t.v_scale[token]);
}
/// All of a tile as floats.
template <class E>
void unpack_tile(kv_tile<E> const& from, index_t padded, kv_tile<float> const& to) {
  for (index_t i = 0; i < padded; ++i) simd::store(to.k + i * lanes, keys_of(from, i));
  for (index_t j = 0; j < padded / lanes; ++j)
    for (index_t t = 0; t < lanes; ++t) simd::store(to.v + (j * lanes + t) * lanes, values_of(from, j, t));
}

template <class E, int Tiles, int... V>
TENON_ALWAYS_INLINE void load_keys(simd::f32x16 (&k)[Tiles], kv_tile<E> const (&tiles)[Tiles], index_t feature,
                                   std::integer_sequence<int, V...>) {
  ((k[V] = keys_of(tiles[V], feature), attention_pin(k[V])), ...);
}
template <class E, int Vectors, int... V>
TENON_ALWAYS_INLINE void load_values(simd::f32x16 (&v)[Vectors], kv_tile<E> const& tile, index_t j, index_t token,
                                     std::integer_sequence<int, V...>) {
  ((v[V] = values_of(tile, j + V, token), attention_pin(v[V])), ...);
}

/// z [Rows, 64] = the scores of rows q [Rows, width] and the keys of `Tiles` tiles.
template <class E, int Rows, int Tiles>
TENON_NOINLINE void paged_scores(kv_tile<E> const* tiles, index_t width, float const* q, index_t q_stride, float* z) {
  constexpr auto all = std::make_integer_sequence<int, Rows * Tiles>{};
  kv_tile<E> here[Tiles];
  std::copy_n(tiles, Tiles, here);
  simd::f32x16 sum[Rows * Tiles], k[Tiles];
  attention_begin<Tiles>(sum, z, attention_key_block, false, all);
  for (index_t i = 0; i < width; ++i) {
    load_keys(k, here, i, std::make_integer_sequence<int, Tiles>{});
    attention_fma<attention_operand::by_row>(sum, k, q + i, q_stride, std::make_integer_sequence<int, Rows>{});
  }
  attention_end<Tiles>(sum, z, attention_key_block, all);
}

/// out [Rows, 16 Vectors] = out * rescale + p [Rows, keys] values: features from 16 `j` on.
template <class E, int Rows, int Vectors>
TENON_NOINLINE void paged_outputs(kv_tile<E> const* tiles, attention_interval keys, index_t j, float const* p,
                                  float const* rescale, float* out, index_t out_stride) {
  constexpr auto all = std::make_integer_sequence<int, Rows * Vectors>{};
  simd::f32x16 sum[Rows * Vectors], v[Vectors];
  attention_begin<Vectors>(sum, out, out_stride, true, all);
  for (int i = 0; i < Rows * Vectors; ++i) sum[i] = sum[i] * simd::broadcast(rescale[i / Vectors]);
  for (index_t key = keys.begin; key < keys.end;) {
    kv_tile<E> const tile = tiles[key / lanes];
    for (index_t const end = std::min(keys.end, round_up(key + 1, lanes)); key < end; ++key) {
      load_values(v, tile, j, key % lanes, std::make_integer_sequence<int, Vectors>{});
      attention_fma<attention_operand::by_row>(sum, v, p + key, attention_key_block,
                                               std::make_integer_sequence<int, Rows>{});
    }
  }
  attention_end<Vectors>(sum, out, out_stride, all);
}

template <class E, int... I>
auto paged_scores_for(index_t rows, index_t tiles, std::integer_sequence<int, I...>) {
  constexpr int most = attention_tile::vectors;
  static constexpr decltype(&paged_scores<E, 1, 1>) table[] = {paged_scores<E, I / most + 1, I % most + 1>...};
  return table[(rows - 1) * most + tiles - 1];
}
template <class E, int... I>
auto paged_outputs_for(index_t rows, index_t vectors, std::integer_sequence<int, I...>) {
  constexpr int most = attention_tile::vectors;
  static constexpr decltype(&paged_outputs<E, 1, 1>) table[] = {paged_outputs<E, I / most + 1, I % most + 1>...};
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

/// The softmax of one row.
struct paged_row {
  float maximum, sum;
};

/// Takes a row one block of keys further: z [64] becomes p. Returns what the outputs before are to be multiplied by.
/// @param kept the keys that the row sees   @param tiles those that have scores
inline float paged_softmax(attention_options const& o, attention_interval kept, attention_interval tiles, float* z,
                           paged_row& row) {
  using simd::f32x16, simd::broadcast;
  bool const capped = o.soft_cap > 0;
  f32x16 const factor = broadcast(capped ? o.soft_cap : o.scale);
  f32x16 const lowest = broadcast(-std::numeric_limits<float>::infinity());
  auto const in_tile = [&](index_t t) { return attention_interval{kept.begin - t * lanes, kept.end - t * lanes}; };
  f32x16 maxima = broadcast(row.maximum);
  for (index_t t = tiles.begin; t < tiles.end; ++t) {
    f32x16 x = simd::load(z + t * lanes);
    if (capped) simd::store(z + t * lanes, x = tanh(x * broadcast(o.scale / o.soft_cap)));
    maxima = max(maxima, attention_keep(in_tile(t), x * factor, lowest));
  }
  float const before = std::exchange(row.maximum, simd::reduce_max(maxima));
  f32x16 const minus = simd::negate(broadcast(row.maximum));
  f32x16 partial = simd::zeros();
  for (index_t t = tiles.begin; t < tiles.end; ++t) {
    f32x16 const p = attention_keep(in_tile(t), exp(fma(simd::load(z + t * lanes), factor, minus)), simd::zeros());
    simd::store(z + t * lanes, p);
    partial = partial + p;
  }
  // A row that has seen nothing yet has outputs and sum 0: any finite factor does.
  float const rescale = before > -std::numeric_limits<float>::infinity() ? simd::exp(before - row.maximum) : 0.0f;
  row.sum = std::fma(row.sum, rescale, simd::reduce_add(partial));
  return rescale;
}

/// Rows [begin, begin + count) of a sequence's rows of one KV head; row r is query r / group of head r % group.
struct paged_item {
  paged_sequence const* sequence;
  int kv_head;
  index_t begin, count;
};

/// A thread's memory.
struct paged_scratch {
  index_t padded;
  float *q, *out;  ///< [rows][padded]
  paged_row* rows;
  float* scores;    ///< [attention_tile::rows][64]
  float* unpacked;  ///< a block of tiles

  template <class Memory>
  paged_scratch(Memory& a, index_t padded_width)
      : padded(padded_width), q(a.template allocate<float>(paged_most_rows * padded)),
        out(a.template allocate<float>(paged_most_rows * padded)),
        rows(a.template allocate<paged_row>(paged_most_rows)),
        scores(a.template allocate<float>(attention_tile::rows * attention_key_block)),
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
};

/// All rows of an item against one block of keys.
template <class E>
void paged_attention_block(attention_options const& o, paged_view const& view, index_t rows, kv_tile<E> const* tiles,
                           paged_scratch const& s) {
  attention_row_groups(rows, [&](index_t r, index_t count) {
    auto const keys = view.keys_of(r, count);
    if (keys.empty()) return;
    attention_interval const seen{keys.begin / lanes, ceil_div(keys.end, lanes)};
    for_vectors(seen.begin, seen.end, [&](index_t t, index_t n) {
      paged_scores_for<E>(count, n, paged_kernels{})(tiles + t, o.head_width, s.q + r * s.padded, s.padded,
                                                     s.scores + t * lanes);
    });
    float rescale[attention_tile::rows];
    for (index_t i = 0; i < count; ++i)
      rescale[i] = paged_softmax(o, view.keys_of(r + i), seen, s.scores + i * attention_key_block, s.rows[r + i]);
    for_vectors(0, s.padded / lanes, [&](index_t j, index_t n) {
      paged_outputs_for<E>(count, n, paged_kernels{})(tiles, keys, j, s.scores, rescale,
                                                      s.out + r * s.padded + j * lanes, s.padded);
    });
  });
}

template <class T, class E>
void paged_attention_item(paged_attention_args<T, E> const& a, paged_item const& item, paged_scratch const& s) {
  auto const& o = a.options;
  auto const& sequence = *item.sequence;
  index_t const group = o.query_heads / o.kv_heads, width = o.head_width;
  attention_visibility const visible{o.causal, o.window, sequence.position + sequence.tokens};
  auto const place = [&](index_t r) {
    index_t const row = item.begin + r;
    return std::pair(sequence.row + row / group, (item.kv_head * group + row % group) * width);
  };
  std::fill_n(s.out, item.count * s.padded, 0.0f);
  for (index_t r = 0; r < item.count; ++r) {
    auto const [row, column] = place(r);
    attention_pack(&a.q(row, column), a.q.stride(0), 1, width, s.q + r * s.padded, s.padded);
    if (a.sinks) s.rows[r] = {a.sinks[column / width], 1.0f};
    else s.rows[r] = {-std::numeric_limits<float>::infinity(), 0.0f};
  }
  index_t const query = item.begin / group, queries = (item.begin + item.count - 1) / group - query + 1;
  auto const blocks = attention_key_blocks(visible, sequence.position + query, queries);
  for (index_t b = blocks.begin; b < blocks.end; ++b) {
    index_t const key = b * attention_key_block;
    paged_view const view{
        {visible, sequence.position + query, queries, key, std::min(attention_key_block, visible.length - key)},
        group,
        item.begin};
    auto const keys = view.keys_of(0, item.count);
    bool const unpack = !std::is_same_v<E, float> && item.count >= paged_unpack_rows;
    kv_tile<E> tiles[paged_block_tiles];
    kv_tile<float> unpacked[paged_block_tiles];
    for (index_t t = keys.begin / lanes; t < ceil_div(keys.end, lanes); ++t) {
      tiles[t] = tile_of(a.cache, sequence, item.kv_head, b * paged_block_tiles + t);
      if (unpack) {
        unpacked[t] = {reinterpret_cast<std::byte*>(s.unpacked + 2 * t * lanes * s.padded), s.padded};
        unpack_tile(tiles[t], s.padded, unpacked[t]);
      }
    }
    if (unpack) paged_attention_block(o, view, item.count, unpacked, s);
    else paged_attention_block(o, view, item.count, tiles, s);
  }
  for (index_t r = 0; r < item.count; ++r) {
    auto const [row, column] = place(r);
    float* const out = s.out + r * s.padded;
    simd::f32x16 const sum = simd::broadcast(s.rows[r].sum);
    for (index_t j = 0; j < s.padded; j += lanes) simd::store(out + j, simd::load(out + j) / sum);
    attention_unpack(out, s.padded, 1, width, &a.out(row, column), a.out.stride(0));
  }
}

/// Sixteen features from `i` on of a token's key and value.
template <class E>
void put_features(kv_tile<E> const& tile, index_t token, index_t i, simd::f32x16 k, simd::f32x16 v) {
  E keys[lanes];
  simd::store(keys, k);
  for (int l = 0; l < lanes; ++l) tile.k[(i + l) * lanes + token] = keys[l];
  simd::store(tile.v + i * lanes + token * lanes, v);
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
  for (index_t i = 0; i < width; i += lanes) {
    int const n = int(std::min<index_t>(lanes, width - i));
    put_features(tile, token, i, simd::load(k + i, n), simd::load(v + i, n));
  }
}
template <class T>
void put_token(kv_tile<kv::q8> const& tile, index_t token, T const* k, T const* v, index_t width) {
  float const k_scale = tile.k_scale[token] = q8_scale(k, width), v_scale = tile.v_scale[token] = q8_scale(v, width);
  for (index_t i = 0; i < width; i += lanes) {
    int const n = int(std::min<index_t>(lanes, width - i));
    float keys[lanes], values[lanes];
    q8_values(simd::load(k + i, n), k_scale, keys);
    q8_values(simd::load(v + i, n), v_scale, values);
    for (int l = 0; l < lanes; ++l) {
      tile.k[(i + l) * lanes + token] = std::int8_t(keys[l]);
      tile.v[(i + token) * lanes + l] = std::int8_t(values[l]);
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
    pool.run([&](int thread) {
      for (index_t i; (i = handed_out.fetch_add(1, std::memory_order_relaxed)) < count;)
        detail::paged_attention_item(a, items[i], scratch[thread]);
    });
  }
};

/// @test tests/ops/paged_attention_test.cpp
template <>
struct kernel_for<kv_write_t, device::host> {
  template <class T, class E>
  static void run(exec::host_context& ctx, kv_write_args<T, E> const& a) {
    detail::check_kv_write(a);
    ctx.pool().run([&](int thread) {
      index_t number = 0;
      for (auto const& s : a.sequences)
        for (index_t begin = s.position, last = s.position + s.tokens, end; begin < last; begin = end) {
          end = std::min(last, round_up(begin + 1, lanes));
          for (int h = 0; h < a.cache.kv_heads; ++h)
            if (number++ % ctx.pool().size() == thread) put_tile(a, s, h, begin, end);
        }
    });
  }

 private:
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
