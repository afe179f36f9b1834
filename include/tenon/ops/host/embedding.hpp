// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include <tenon/ops/embedding.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {
namespace detail {

/// The occurrences of each row, in order: keys are (row << 32 | token index), sorted; group g is keys
/// [begins[g], begins[g + 1]).
struct row_groups {
  std::uint64_t const* keys;
  index_t const* begins;
  index_t count;

  index_t row(index_t g) const { return index_t(keys[begins[g]] >> 32); }
  index_t token(index_t i) const { return index_t(keys[i] & 0xffffffffu); }
};

/// Tokens of rows [first_row, first_row + table_rows) by row, from first_row on. Radix sort, eleven bits a pass; stable,
/// so that tokens of a row stay in order. Takes scratch of the caller's scope.
inline row_groups group_by_row(arena& scratch, std::span<std::int32_t const> tokens, index_t first_row,
                               index_t table_rows) {
  std::uint64_t* keys = scratch.allocate<std::uint64_t>(index_t(tokens.size()));
  std::uint64_t* other = scratch.allocate<std::uint64_t>(index_t(tokens.size()));
  index_t* const begins = scratch.allocate<index_t>(index_t(tokens.size()) + 1);
  index_t n = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (index_t const r = tokens[i] - first_row; r >= 0 && r < table_rows) keys[n++] = std::uint64_t(r) << 32 | i;
  constexpr int digit_bits = 11;
  int const row_bits = int(std::bit_width(std::uint64_t(std::max<index_t>(table_rows, 1) - 1)));
  for (int shift = 32; shift < 32 + row_bits; shift += digit_bits) {
    std::array<std::uint32_t, 1u << digit_bits> place{};
    auto const digit = [&](std::uint64_t key) { return std::size_t(key >> shift) & (place.size() - 1); };
    for (index_t i = 0; i < n; ++i) ++place[digit(keys[i])];
    std::uint32_t total = 0;
    for (auto& p : place) total += std::exchange(p, total);
    for (index_t i = 0; i < n; ++i) other[place[digit(keys[i])]++] = keys[i];
    std::swap(keys, other);
  }
  index_t count = 0;
  for (index_t i = 0; i < n; ++i)
    if (i == 0 || keys[i] >> 32 != keys[i - 1] >> 32) begins[count++] = i;
  begins[count] = n;
  return {keys, begins, count};
}

/// The tree over leaves of which some are absent. Nodes [depth, width] lie in `nodes`; two neighbours are combined once
/// no leaf can come between them, that is when a later leaf parts from the last one at a higher level than they do.
struct sparse_tree {
  float* nodes;
  index_t width;
  int depth = 0;
  index_t last_leaf = 0;
  std::array<int, 66> level{};  // at which a node parts from the one before it

  /// Room for the next leaf's sum.
  float* push(index_t leaf) {
    int const parts = depth ? int(std::bit_width(std::uint64_t(leaf ^ last_leaf))) : 64;
    while (depth >= 2 && level[std::size_t(depth - 1)] < parts) combine();
    level[std::size_t(depth)] = parts;
    last_leaf = leaf;
    return nodes + width * depth++;
  }
  float* finish() {
    while (depth >= 2) combine();
    return nodes;
  }

 private:
  void combine() {
    --depth;
    float* const left = nodes + width * (depth - 1);
    float const* const right = nodes + width * depth;
    for_lanes(0, width, [&](index_t j, int n) TENON_INLINE_LAMBDA {
      simd::store(left + j, simd::load(left + j, n) + simd::load(right + j, n), n);
    });
  }
};

/// The sum of one group over columns [begin, begin + sums.width), left in the tree's first node.
template <class T>
float const* sum_group(embedding_backward_args<T> const& a, row_groups const& groups, index_t g, index_t leaf,
                       index_t begin, sparse_tree& sums) {
  index_t const last = groups.begins[g + 1];
  index_t i = groups.begins[g];
  sums.depth = 0;
  while (i < last) {
    index_t const l = groups.token(i) / leaf;
    float* const node = sums.push(l);
    std::fill(node, node + sums.width, 0.0f);
    for (; i < last && groups.token(i) / leaf == l; ++i) {
      T const* const d = row(a.d_out, groups.token(i)) + begin;
      for_lanes(0, sums.width, [&](index_t j, int n) TENON_INLINE_LAMBDA {
        simd::store(node + j, simd::load(node + j, n) + simd::load(d + j, n), n);
      });
    }
  }
  return sums.finish();
}

inline void require_rows(std::span<std::int32_t const> tokens, index_t rows, char const* what) {
  bool inside = true;
  for (auto const token : tokens) inside = inside && token >= 0 && token < rows;
  require(inside, what);
}

}  // namespace detail

template <>
struct kernel_for<embedding_forward_t, device::host> {
  template <class T, class Out>
  static void run(exec::host_context& ctx, embedding_forward_args<T, Out> const& a) {
    index_t const rows = a.out.extent(0), cols = a.out.extent(1);
    bool const positioned = !a.position_table.empty();
    detail::require(index_t(a.tokens.size()) == rows && detail::same_shape(a.out, rows, cols) &&
                        detail::same_shape(a.table, a.table.extent(0), cols) &&
                        (!positioned || (detail::same_shape(a.position_table, a.position_table.extent(0), cols) &&
                                         index_t(a.positions.size()) == rows)),
                    "tenon::embedding_forward: shapes differ. Fix: tokens [t], table [v,c], positions [t], out [t,c].");
    index_t const held = a.table.extent(0);
    detail::require_rows(a.tokens, a.vocabulary > 0 ? a.vocabulary : held,
                         "tenon::embedding_forward: a token is not in the table. Fix: the tokenizer of this model.");
    if (positioned)
      for (index_t const p : a.positions)
        detail::require(p >= 0 && p < a.position_table.extent(0),
                        "tenon::embedding_forward: a position is beyond the table. Fix: shorter sequences.");
    auto const scale = simd::broadcast(a.scale);
    ctx.pool().for_range(rows, detail::piece_rows(cols), [&](index_t begin, index_t end) {
      for (index_t r = begin; r < end; ++r) {
        index_t const token = a.tokens[std::size_t(r)] - a.first_row;
        T const* const from = token >= 0 && token < held ? detail::row(a.table, token) : nullptr;
        T const* const at = positioned ? detail::row(a.position_table, a.positions[std::size_t(r)]) : nullptr;
        Out* const out = detail::row(a.out, r);
        detail::for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
          auto const v = from ? simd::load(from + j, n) : simd::broadcast(-0.0f);
          simd::store(out + j, at ? simd::fma(v, scale, simd::load(at + j, n)) : v * scale, n);
        });
      }
    });
  }
};

template <>
struct kernel_for<embedding_backward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, embedding_backward_args<T> const& a) {
    index_t const tokens = a.d_out.extent(0), cols = a.d_out.extent(1), table_rows = a.d_table.extent(0);
    detail::require(index_t(a.tokens.size()) == tokens && detail::same_shape(a.d_out, tokens, cols) &&
                        detail::same_shape(a.d_table, table_rows, cols),
                    "tenon::embedding_backward: shapes differ. Fix: tokens [t], d_out [t,c], d_table [v,c].");
    detail::require_rows(a.tokens, a.vocabulary > 0 ? a.vocabulary : table_rows,
                         "tenon::embedding_backward: a token is not in the table. Fix: the same tokens as forward.");
    if (!a.accumulate)
      ctx.pool().for_range(table_rows, detail::piece_rows(cols), [&](index_t begin, index_t end) {
        for (index_t r = begin; r < end; ++r)
          std::fill(detail::row(a.d_table, r), detail::row(a.d_table, r) + cols, 0.0f);
      });
    arena_scope scope(ctx.scratch());
    auto const groups = detail::group_by_row(ctx.scratch(), a.tokens, a.first_row, table_rows);
    index_t const leaf = detail::leaf_length(a.leaf, tokens);
    int const threads = ctx.pool().size();
    // Many rows: whole rows. Few (bytes, positions of one sequence): columns are shared out, too.
    index_t const width = groups.count >= 16 * threads ? cols : std::min<index_t>(cols, 128);
    index_t const pieces = ceil_div(cols, std::max<index_t>(1, width)), grain = detail::piece_rows(cols);
    index_t const node_width = round_up(width, lanes), depth = tree_levels(ceil_div(tokens, leaf)) + 1;
    float* const nodes = ctx.scratch().allocate<float>(threads * depth * node_width);
    index_t const tasks = ceil_div(groups.count, grain) * pieces;
    std::atomic<index_t> next{0};
    ctx.pool().run([&](int thread) {
      for (index_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
        index_t const first = i / pieces * grain, begin = i % pieces * width;
        detail::sparse_tree sums{nodes + thread * depth * node_width, std::min(width, cols - begin)};
        for (index_t g = first; g < std::min(groups.count, first + grain); ++g) {
          float const* const sum = detail::sum_group(a, groups, g, leaf, begin, sums);
          float* const out = detail::row(a.d_table, groups.row(g)) + begin;
          detail::for_lanes(0, sums.width, [&](index_t j, int n) TENON_INLINE_LAMBDA {
            auto const v = simd::load(sum + j, n);
            simd::store(out + j, a.accumulate ? simd::load(out + j, n) + v : v, n);
          });
        }
      }
    });
  }
};

}  // namespace tenon::ops
