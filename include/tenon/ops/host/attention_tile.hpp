// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What attention forward and backward share: the register-tiled product, packing, and tiles of queries.
#include <algorithm>
#include <mutex>
#include <span>
#include <utility>

#include <tenon/exec/host/context.hpp>
#include <tenon/exec/host/simd.hpp>
#include <tenon/ops/attention.hpp>

namespace tenon::ops::detail {

/// The part of a product that one kernel call keeps in registers: 16 of 32 zmm, 12 of 16 ymm.
struct attention_tile {
  static constexpr int rows = TENON_SIMD_AVX512() ? 4 : 6;
  static constexpr int vectors = TENON_SIMD_AVX512() ? 4 : 1;
  /// Queries handled together; no result depends on it.
  static constexpr index_t queries = 64;
  static constexpr index_t keys = attention_key_block;
  /// Most tiles of queries (forward) or blocks of keys (backward) that a thread keeps at once, while the other side
  /// streams by from memory: their buffers fill about half of a 1 MiB L2 when a head is 64 wide.
  static constexpr index_t most_in_unit = 4;
};

/// Keeps a loaded vector in a register: g++ otherwise folds its load into every fma that uses it.
TENON_ALWAYS_INLINE void attention_pin([[maybe_unused]] simd::f32x16& x) {
#if TENON_SIMD_AVX512()
  asm volatile("" : "+v"(x.v));
#elif TENON_SIMD_AVX2()
  asm volatile("" : "+x"(x.lo), "+x"(x.hi));
#endif
}

/// Where a product's left operand has element (row, k): `by_row` at row * stride + k, `by_depth` at k * stride + row.
enum class attention_operand { by_row, by_depth };

template <int Vectors, int... V>
TENON_ALWAYS_INLINE void attention_load(simd::f32x16 (&row)[Vectors], float const* b,
                                        std::integer_sequence<int, V...>) {
  ((row[V] = simd::load(b + V * lanes), attention_pin(row[V])), ...);
}
template <attention_operand Operand, int R, int Vectors, int N, int... V>
TENON_ALWAYS_INLINE void attention_fma_row(simd::f32x16 (&sum)[N], simd::f32x16 const (&row)[Vectors], float const* a,
                                           index_t a_stride, std::integer_sequence<int, V...>) {
  simd::f32x16 const x = simd::broadcast(Operand == attention_operand::by_row ? a[R * a_stride] : a[R]);
  ((sum[R * Vectors + V] = simd::fma(x, row[V], sum[R * Vectors + V])), ...);
}
template <attention_operand Operand, int Vectors, int N, int... R>
TENON_ALWAYS_INLINE void attention_fma(simd::f32x16 (&sum)[N], simd::f32x16 const (&row)[Vectors], float const* a,
                                       index_t a_stride, std::integer_sequence<int, R...>) {
  (attention_fma_row<Operand, R>(sum, row, a, a_stride, std::make_integer_sequence<int, Vectors>{}), ...);
}
template <int Vectors, int N, int... I>
TENON_ALWAYS_INLINE void attention_begin(simd::f32x16 (&sum)[N], float const* c, index_t c_stride, bool accumulate,
                                         std::integer_sequence<int, I...>) {
  if (accumulate) ((sum[I] = simd::load(c + I / Vectors * c_stride + I % Vectors * lanes)), ...);
  else ((sum[I] = simd::zeros()), ...);
}
template <int Vectors, int N, int... I>
TENON_ALWAYS_INLINE void attention_end(simd::f32x16 const (&sum)[N], float* c, index_t c_stride,
                                       std::integer_sequence<int, I...>) {
  (simd::store(c + I / Vectors * c_stride + I % Vectors * lanes, sum[I]), ...);
}

/// c [Rows, 16 Vectors] = (or +=) a [Rows, depth] b [depth, 16 Vectors]; each element one chain in order of depth.
template <attention_operand Operand, int Rows, int Vectors>
TENON_NOINLINE void attention_product(index_t depth, float const* a, index_t a_stride, float const* b, index_t b_stride,
                                      float* c, index_t c_stride, bool accumulate) {
  constexpr auto all = std::make_integer_sequence<int, Rows * Vectors>{};
  simd::f32x16 sum[Rows * Vectors], row[Vectors];
  attention_begin<Vectors>(sum, c, c_stride, accumulate, all);
  for (index_t k = 0; k < depth; ++k, b += b_stride, a += Operand == attention_operand::by_row ? 1 : a_stride) {
    attention_load(row, b, std::make_integer_sequence<int, Vectors>{});
    attention_fma<Operand>(sum, row, a, a_stride, std::make_integer_sequence<int, Rows>{});
  }
  attention_end<Vectors>(sum, c, c_stride, all);
}

using attention_product_function = void (*)(index_t, float const*, index_t, float const*, index_t, float*, index_t,
                                            bool);

template <attention_operand Operand, int... I>
attention_product_function attention_product_for(int rows, int vectors, std::integer_sequence<int, I...>) {
  constexpr int most = attention_tile::vectors;
  static constexpr attention_product_function table[] = {attention_product<Operand, I / most + 1, I % most + 1>...};
  return table[(rows - 1) * most + vectors - 1];
}

/// As attention_product for at most attention_tile::rows rows and any number of vectors.
template <attention_operand Operand>
void attention_rows_product(index_t rows, index_t vectors, index_t depth, float const* a, index_t a_stride,
                            float const* b, index_t b_stride, float* c, index_t c_stride, bool accumulate) {
  constexpr index_t most = attention_tile::vectors;
  for (index_t groups = ceil_div(vectors, most); groups > 0; --groups) {
    index_t const now = ceil_div(vectors, groups);
    attention_product_for<Operand>(int(rows), int(now),
                                   std::make_integer_sequence<int, attention_tile::rows* int(most)>{})(
        depth, a, a_stride, b, b_stride, c, c_stride, accumulate);
    b += now * lanes, c += now * lanes, vectors -= now;
  }
}

/// function(first, count) for [0, rows) in groups of at most attention_tile::rows.
template <class Function>
TENON_ALWAYS_INLINE void attention_row_groups(index_t rows, Function&& function) {
  for (index_t r = 0; r < rows; r += attention_tile::rows)
    function(r, std::min<index_t>(attention_tile::rows, rows - r));
}

/// An interval of indices; `end` is not in it.
struct attention_interval {
  index_t begin, end;
  bool empty() const { return begin == end; }
  attention_interval within(attention_interval o) const { return {std::max(begin, o.begin), std::min(end, o.end)}; }
  /// What lies in [0, extent); {0, 0} when that is nothing.
  attention_interval within(index_t extent) const {
    attention_interval const i{std::max<index_t>(begin, 0), std::min(end, extent)};
    return i.begin < i.end ? i : attention_interval{0, 0};
  }
};

/// A tile: queries [query, query + queries) against keys [key, key + keys), positions in their sequence. The intervals
/// that it answers are relative to the tile.
struct attention_block {
  attention_visibility visible;
  index_t query, queries, key, keys;
  /// Keys seen by any of `count` queries from `first` on.
  attention_interval keys_of(index_t first, index_t count = 1) const {
    return attention_interval{visible.keys_begin(query + first) - key,
                              visible.keys_end(query + first + count - 1) - key}
        .within(keys);
  }
  /// Queries that see any of `count` keys from `first` on.
  attention_interval queries_of(index_t first, index_t count = 1) const {
    return attention_interval{visible.queries_begin(key + first) - query,
                              visible.queries_end(key + first + count - 1) - query}
        .within(queries);
  }
  /// No pair is masked.
  bool whole() const { return visible.keys_begin(query + queries - 1) <= key && visible.keys_end(query) >= key + keys; }
};
/// The blocks of keys that queries [first, first + count) see, as block numbers: never empty.
inline attention_interval attention_key_blocks(attention_visibility const& v, index_t first, index_t count) {
  return {v.keys_begin(first) / attention_key_block, ceil_div(v.keys_end(first + count - 1), attention_key_block)};
}

/// What a call is about: whole sequences, or a part of one.
template <class Args>
struct attention_call {
  Args const& args;
  index_t rows_of_part[2], keys_of_part[2];

  explicit attention_call(Args const& a) : args(a), rows_of_part{0, a.q.extent(0)}, keys_of_part{0, a.k.extent(0)} {}
  attention_call(attention_call const&) = delete;
  attention_call& operator=(attention_call const&) = delete;
  /// Where the queries, and the keys, of each sequence begin.
  std::span<index_t const> query_begins() const { return args.part.length ? rows_of_part : args.sequence_begins; }
  std::span<index_t const> key_begins() const { return args.part.length ? keys_of_part : args.sequence_begins; }
  /// Of a sequence whose rows here are `rows` many.
  attention_extent extent(index_t rows) const {
    return args.part.length ? extent_of_part(args) : attention_extent{rows, 0, rows, 0, rows};
  }
};
/// The blocks of keys that are here, as block numbers.
inline attention_interval attention_key_blocks(attention_extent const& e) {
  return {e.key_begin / attention_key_block, ceil_div(e.key_end, attention_key_block)};
}

/// Asks for rows of up to three matrices a few at a time, between the products that come before they are needed: read
/// all at once, rows that are far apart wait for memory.
struct attention_prefetch {
  struct matrix_rows {
    char const* first;
    index_t stride_bytes, row_bytes;
  };
  matrix_rows matrices[3] = {};
  index_t rows, rows_per_step, next = 0;

  /// `rows` rows of each matrix within `steps` steps.
  attention_prefetch(index_t row_count, index_t steps)
      : rows(std::max<index_t>(row_count, 0)), rows_per_step(ceil_div(rows, std::max<index_t>(steps, 1))) {}
  template <class T>
  void set(int slot, matrix_view<T> m, index_t row, index_t column, index_t width) {
    if (rows == 0) return;
    matrices[slot] = {reinterpret_cast<char const*>(&m(row, column)), m.stride(0) * index_t(sizeof(T)),
                      width * index_t(sizeof(T))};
  }
  void step() {
    for (index_t const end = std::min(next + rows_per_step, rows); next < end; ++next)
      for (auto const& m : matrices)
        for (index_t b = 0; b < m.row_bytes; b += cache_line_bytes) simd::prefetch(m.first + next * m.stride_bytes + b);
  }
};

/// to [count, padded] = rows [count, width] of a matrix, the rest of each row zero; padded is a multiple of 16.
template <class T>
void attention_pack(T const* from, index_t stride, index_t count, index_t width, float* to, index_t padded) {
  for (index_t r = 0; r < count; ++r)
    for (index_t j = 0; j < padded; j += lanes)
      simd::store(to + r * padded + j, simd::load(from + r * stride + j, int(std::min<index_t>(lanes, width - j))));
}
/// to [width, 64] = the transpose of rows [count, width], the columns from `count` on zero.
template <class T>
void attention_pack_transposed(T const* from, index_t stride, index_t count, index_t width, float* to) {
  constexpr index_t columns = 64;
  for (index_t r = 0; r < columns; ++r)
    for (index_t j = 0; j < width; ++j) to[j * columns + r] = r < count ? float(from[r * stride + j]) : 0.0f;
}
/// Rows [count, width] of a matrix = from [count, padded], rounded; -0 becomes +0, so that skipped zeros never show.
template <class T>
void attention_unpack(float const* from, index_t padded, index_t count, index_t width, T* to, index_t stride) {
  for (index_t r = 0; r < count; ++r)
    for (index_t j = 0; j < width; j += lanes)
      simd::store(to + r * stride + j, simd::load(from + r * padded + j) + simd::zeros(),
                  int(std::min<index_t>(lanes, width - j)));
}

/// Lanes [begin, end) of sixteen; either may lie outside.
TENON_ALWAYS_INLINE simd::f32x16 attention_keep(attention_interval kept, simd::f32x16 x, simd::f32x16 otherwise) {
  auto const clamped = [](index_t i) { return int(std::clamp<index_t>(i, 0, lanes)); };
  simd::f32x16 const below = simd::select(simd::first_lanes(clamped(kept.end)), x, otherwise);
  return simd::select(simd::first_lanes(clamped(kept.begin)), otherwise, below);
}

/// Stands in for an arena: counts what would be taken from it.
struct attention_memory_count {
  std::size_t bytes = 0;
  template <class T>
  T* allocate(index_t count) {
    bytes += std::size_t(round_up(count * index_t(sizeof(T)), cache_line_bytes));
    return nullptr;
  }
};

/// A piece of work: positions [first, first + count) of a sequence of `length` tokens that begins at `token`.
struct attention_unit {
  index_t sequence, token, length, first, count;
  index_t repeat;  ///< which of the heads
};

/// How many blocks of 64 tokens make a unit: the most that leave every thread some units to choose from.
inline index_t attention_blocks_in_unit(std::span<index_t const> begins, index_t repeats, int threads) {
  for (index_t n = attention_tile::most_in_unit; n > 1; n /= 2) {
    index_t units = 0;
    for (std::size_t s = 0; s + 1 < begins.size(); ++s) units += ceil_div(begins[s + 1] - begins[s], 64 * n);
    if (threads == 1 || units * repeats >= 8 * threads) return n;
  }
  return 1;
}

/// function(unit, thread) for every unit of `blocks` blocks of 64 tokens of every sequence, `repeats` times each. They
/// are handed out one by one, and under a causal mask the longest work first: `last_first` from the ends of the
/// sequences, else from their beginnings. Units of one sequence and repeat are handed out in falling (else rising)
/// order.
template <class Function>
void attention_for_each_unit(exec::thread_pool& pool, std::span<index_t const> begins, index_t blocks, index_t repeats,
                             bool last_first, Function&& function) {
  index_t const sequences = index_t(begins.size()) - 1, tokens = 64 * blocks;
  auto const length = [&](index_t s) { return begins[std::size_t(s) + 1] - begins[std::size_t(s)]; };
  // The next to hand out: sequences with at least `round` units give one each, then the round before.
  index_t round = 0, sequence = 0, repeat = 0;
  for (index_t s = 0; s < sequences; ++s) round = std::max(round, ceil_div(length(s), tokens));
  std::mutex handing_out;
  pool.run([&](int thread) {
    for (;;) {
      attention_unit u;
      {
        std::lock_guard lock(handing_out);
        while (round > 0 && (sequence == sequences || ceil_div(length(sequence), tokens) < round))
          if (++sequence > sequences) --round, sequence = 0;
        if (round == 0) return;
        index_t const n = length(sequence), unit = last_first ? round - 1 : ceil_div(n, tokens) - round;
        u = {sequence, begins[std::size_t(sequence)], n, unit * tokens, std::min(tokens, n - unit * tokens), repeat};
        if (++repeat == repeats) repeat = 0, ++sequence;
      }
      function(u, thread);
    }
  });
}

}  // namespace tenon::ops::detail
