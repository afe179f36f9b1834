// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Matrix multiplication on the host: packed panels, blocks for the caches, work over the thread pool.
#include <atomic>
#include <string>

#include <tenon/exec/host/context.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/host/gemm_epilogue.hpp>
#include <tenon/ops/host/gemm_kernel.hpp>
#include <tenon/ops/host/gemm_pack.hpp>

namespace tenon::ops {
namespace detail {

/// One multiplication c [m,n] = a [m,k] b [k,n] with c's columns contiguous.
///
/// A thread takes a range of rows, packs it for itself, and goes through the columns unit by unit; threads that find no
/// range of their own help with the units of others'. Nothing packed is shared: memory that travels between cores costs
/// more than packing twice.
template <class C, class A, class B>
class gemm_driver {
 public:
  gemm_driver(exec::host_context& ctx, gemm_operand<A> left, gemm_operand<B> right, index_t k, gemm_k_map k_map,
              gemm_epilogue<C> const& e)
      : pool(ctx.pool()), memory(ctx.scratch()), a(left), b(right), map(k_map), epilogue(e), plain(e.plain()),
        plan(left.strip_extent, right.strip_extent, k, k_map.leaf, k_map.pieces.empty(), right.k_stride == 1,
             ctx.pool().size()) {}

  void run() {
    arena_scope scope(memory);
    index_t const panels = plan.range_panels();
    chunk = std::min(gemm_plan::chunk_panels, panels);
    slices = panels > chunk ? plan.super_blocks : 1;
    tile_state = plan.order.slots * gemm_tile::size;
    layout.packed_b = round_up(panels * plan.super_blocks * plan.a_panel_values(), lanes);
    layout.tiles = layout.packed_b + round_up(slices * plan.b_slice_values(), lanes);
    layout.turned = layout.tiles + (plan.order.inner_levels + 1) * gemm_tile::size;
    layout.kept = layout.turned + gemm_turned_columns<B>::space_values;
    layout.end = layout.kept + (plan.whole_k() ? chunk * plan.b_panels() * tile_state : 0);
    workspaces = memory.allocate<float>(plan.threads * layout.end);
    if (!plan.whole_k())
      state = memory.allocate<float>(plan.ranges * panels * ceil_div(plan.n, gemm_tile::cols) * tile_state);
    counters = memory.allocate<counter>(plan.ranges + 1);
    for (index_t block = 0; block < plan.order.blocks; block += plan.super_blocks) {
      for (index_t i = 0; i <= plan.ranges; ++i) new (counters + i) counter;
      auto const work = [&](int thread) {
        run_thread(thread, block, std::min(block + plan.super_blocks, plan.order.blocks));
      };
      if (plan.threads == 1) work(0);
      else pool.run(work);
    }
  }

 private:
  struct alignas(cache_line_bytes) counter {
    std::atomic<index_t> next{0};
    index_t claim() { return next.fetch_add(1, std::memory_order_relaxed); }
  };
  /// A range of rows against all columns, for blocks of k [first_block, last_block).
  struct range {
    index_t index, row, row_end;
    index_t first_block, last_block;
    float* workspace;
    index_t panels() const { return ceil_div(row_end - row, gemm_tile::rows); }
    gemm_plan::panel_rows rows_of(index_t panel) const { return gemm_plan::panel_at(row, row_end, panel); }
  };
  /// One block of k of a unit's columns.
  struct slice {
    index_t block, k0, k1, col;
    int width;
    float* packed;
    bool fresh;           ///< its columns are not packed yet
    gemm_prefetch ahead;  ///< of what this thread reads afterwards
    int steps;
  };
  /// The columns of one kernel call.
  struct strip {
    index_t col;
    int cols, at;  ///< how many, and the first one's place in the slice
  };

  void run_thread(int thread, index_t first_block, index_t last_block) const {
    auto const range_at = [&](index_t i) {
      return range{i,           i * plan.range_rows, std::min((i + 1) * plan.range_rows, plan.m),
                   first_block, last_block,          workspaces + thread * layout.end};
    };
    for (index_t i; (i = counters[plan.ranges].claim()) < plan.ranges;) run_range(range_at(i));
    for (index_t i = 0; i < plan.ranges; ++i) run_range(range_at((thread + i) % plan.ranges));
  }

  /// Units of a range until none is left. The next one is claimed ahead, so that its columns can be fetched, but not
  /// near the end: others may be free by then.
  void run_range(range const& r) const {
    index_t const units = ceil_div(plan.n, plan.block_n),
                  margin = plan.threads == 1 ? 1 : 1 + 2 * ceil_div(plan.threads, plan.ranges);
    counter& unit = counters[r.index];
    bool packed = false;
    for (index_t i = unit.claim(); i < units;) {
      bool const ahead = i + margin < units;
      index_t const next = ahead ? unit.claim() : units;
      run_unit(r, i * plan.block_n, next * plan.block_n, packed);
      packed = true;
      i = ahead ? next : unit.claim();
    }
  }

  /// `next_col` is where this thread goes on afterwards, if that is a column.
  void run_unit(range const& r, index_t col, index_t next_col, bool a_is_packed) const {
    int const width = int(std::min(plan.block_n, plan.n - col));
    for (index_t p0 = 0; p0 < r.panels(); p0 += chunk)
      for (index_t block = r.first_block; block < r.last_block; ++block) {
        index_t const p1 = std::min(p0 + chunk, r.panels());
        slice s{block, plan.order.begin(block), plan.order.end(block), col, width, nullptr, p0 == 0, {}, 0};
        s.packed = r.workspace + layout.packed_b + (block - r.first_block) % slices * plan.b_slice_values();
        if (!plan.few && s.fresh && block + 1 < r.last_block) s.ahead = prefetch_columns(col, block + 1);
        else if (!plan.few && next_col < plan.n && block + 1 == r.last_block && p1 == r.panels())
          s.ahead = prefetch_columns(next_col, r.first_block);
        s.steps = s.ahead.pace((p1 - p0) * ceil_div(width, gemm_tile::cols) * ceil_div(s.k1 - s.k0, 8));
        run_slice(r, s, p0, p1, a_is_packed);
      }
  }

  /// Row panels [first, end) against the columns of a slice: a column panel is in L1 while row panels stream by.
  void run_slice(range const& r, slice& s, index_t first, index_t end, bool a_is_packed) const {
    bool const whole = b.k_stride != 1;  // rows of b are read a slice wide, columns a panel at a time
    if (s.fresh && !plan.few && whole) pack_columns(s, 0, s.width);
    for (int j = 0, cols = 0; j < s.width; j += cols) {
      cols = s.width - j >= plan.strip_cols ? plan.strip_cols : std::min(gemm_tile::cols, s.width - j);
      if (plan.few ? cols < gemm_tile::cols : s.fresh && !whole) pack_columns(s, j, cols);
      for (index_t p = first; p < end; ++p) {
        if (!a_is_packed && j == 0 && (p - first) % pack_group == 0)
          pack_rows(r, p, std::min(p + pack_group, end), s.block);
        run_tile(r, p, s, strip{s.col + j, cols, j}, p - first, p + 1 < end ? p + 1 : first);
      }
    }
  }

  float* packed_a(range const& r, index_t panel, index_t block) const {
    return r.workspace + ((block - r.first_block) * r.panels() + panel) * plan.a_panel_values();
  }
  /// Row panels [begin, end) of a block of k; the last two of a range may be strips of a width of their own.
  void pack_rows(range const& r, index_t begin, index_t end, index_t block) const {
    gemm_strips strips{packed_a(r, begin, block), plan.a_panel_values(), 0, gemm_tile::rows, r.rows_of(begin).first,
                       plan.order.begin(block),   plan.order.end(block)};
    for (index_t p = begin; p < end; ++p) strips.strips += r.rows_of(p).kernel_rows == gemm_tile::rows;
    if (strips.strips) pack_strips(strips, a, map);
    for (index_t p = begin + strips.strips; p < end; ++p) {
      auto const rows = r.rows_of(p);
      pack_strips(gemm_strips{packed_a(r, p, block), 0, 1, rows.kernel_rows, rows.first, strips.k0, strips.k1}, a, map);
    }
  }

  /// Of the first run of k in a block: the longest, as a rule.
  gemm_prefetch prefetch_columns(index_t col, index_t block) const {
    gemm_prefetch first;
    map.for_runs(plan.order.begin(block), plan.order.end(block), [&](index_t, index_t at, index_t n) {
      if (!first.at) first = prefetch_of(b, col, std::min(col + plan.block_n, plan.n), at, at + n);
    });
    return first;
  }
  float* packed_b(slice const& s, int at) const { return s.packed + (plan.few ? 0 : at * (s.k1 - s.k0)); }
  void pack_columns(slice const& s, int at, int cols) const {
    pack_strips(gemm_strips{packed_b(s, at), (s.k1 - s.k0) * gemm_tile::cols, int(ceil_div(cols, gemm_tile::cols)),
                            gemm_tile::cols, s.col + at, s.k0, s.k1},
                b, map);
  }

  /// One row panel against one strip of columns. `kept_row` is its place in what is kept between blocks; row panel
  /// `next_panel` follows.
  void run_tile(range const& r, index_t panel, slice& s, strip const& columns, index_t kept_row,
                index_t next_panel) const {
    auto const [row, rows, kernel_rows] = r.rows_of(panel);
    float* const tiles = r.workspace + layout.tiles;
    float* const scratch = tiles + plan.order.inner_levels * gemm_tile::size;
    index_t const tile = columns.at / gemm_tile::cols;
    float* const outer = plan.whole_k()
                             ? r.workspace + layout.kept + (kept_row * plan.b_panels() + tile) * tile_state
                             : state + ((r.index * plan.range_panels() + panel) * ceil_div(plan.n, gemm_tile::cols) +
                                        s.col / gemm_tile::cols + tile) *
                                           tile_state;
    C* const to = &epilogue.c(row, columns.col);
    gemm_tile_job job{packed_a(r, panel, s.block),
                      (next_panel - panel) * plan.a_panel_values(),
                      s.k0,
                      s.k1,
                      tiles,
                      outer,
                      scratch,
                      plan.strip_cols,
                      reinterpret_cast<char const*>(to),
                      epilogue.c.stride(0) * index_t(sizeof(C)),
                      &s.ahead,
                      s.steps};
    bool const in_place = plain && rows == kernel_rows && columns.cols % lanes == 0;
    if constexpr (std::same_as<C, float>)
      if (in_place) job.out = to, job.out_stride = epilogue.c.stride(0);
    call_kernel(r, s, columns, kernel_rows, job);
    if (s.block + 1 == plan.order.blocks && !in_place)
      epilogue.store_tile(scratch, plan.strip_cols, row, columns.col, rows, columns.cols);
  }
  void call_kernel(range const& r, slice const& s, strip const& columns, int rows, gemm_tile_job const& job) const {
    constexpr int step = gemm_tile::row_step, V = gemm_tile::vectors;
    if (!plan.few || columns.cols < gemm_tile::cols) {
      gemm_packed_columns const from{packed_b(s, columns.at)};
      if (columns.cols > lanes) call_gemm_kernel<V, 1, 2, step, 2 * step, 3 * step>(rows, plan.order, job, from);
      else call_gemm_kernel<1, 1, 2, step, 2 * step, 3 * step>(rows, plan.order, job, from);
    } else if (b.k_stride == 1) {
      gemm_turned_columns<B> const from{b, columns.col, s.k0, s.k1, r.workspace + layout.turned};
      call_gemm_kernel<V, 1, 2, step>(rows, plan.order, job, from);
    } else {
      gemm_streamed_columns<B> const from{b.at(columns.col, s.k0), b.k_stride};
      if (columns.cols == gemm_tile::cols) call_gemm_kernel<V, 1, 2, step>(rows, plan.order, job, from);
      else if (rows == 1) gemm_tile_kernel<1, gemm_plan::few_vectors(1)>(plan.order, job, from);
      else if (rows == 2) gemm_tile_kernel<2, gemm_plan::few_vectors(2)>(plan.order, job, from);
      else gemm_tile_kernel<step, gemm_plan::few_vectors(step)>(plan.order, job, from);
    }
  }

  static constexpr index_t pack_group = 8;  ///< row panels packed at a time: their rows or columns are read whole

  exec::thread_pool& pool;
  arena& memory;
  gemm_operand<A> a;
  gemm_operand<B> b;
  gemm_k_map map;
  gemm_epilogue<C> epilogue;
  bool plain;
  gemm_plan plan;
  counter* counters = nullptr;  ///< units of each range, then ranges
  float *workspaces = nullptr, *state = nullptr;
  index_t chunk = 0, slices = 0, tile_state = 0;
  struct {
    index_t packed_b, tiles, turned, kept, end;
  } layout{};  ///< of one thread's workspace, which begins with packed a
};

template <class T>
bool has_unit_stride(matrix_view<T> const& v) {
  return v.stride(0) == 1 || v.stride(1) == 1 || v.extent(0) <= 1 || v.extent(1) <= 1;
}

/// A strip stride for rows (or columns) of an operand; k counts as contiguous when there is one value of it.
template <class T>
gemm_operand<T> make_gemm_operand(matrix_view<T const> const& v, int strip_dimension) {
  int const k_dimension = 1 - strip_dimension;
  bool const one = v.extent(k_dimension) <= 1;
  return {v.data(), v.extent(strip_dimension), v.stride(strip_dimension), one ? 1 : v.stride(k_dimension)};
}

inline gemm_k_map make_gemm_k_map(std::span<k_piece const> pieces, index_t leaf, index_t k) {
  if (pieces.empty()) return {{}, leaf};
  index_t rows = 0, leaf_of_all = 0;
  for (auto const& piece : pieces) {
    if (piece.rows < 1 || piece.leaves() != pieces[0].leaves())
      throw argument_error("tenon::ops::gemm: a piece of k has " + std::to_string(piece.rows) + " rows in leaves of " +
                           std::to_string(piece.leaf) + ". Fix: pieces with rows, all in the same number of leaves.");
    rows += piece.rows;
    leaf_of_all += piece.leaf_rows();
  }
  if (rows != k)
    throw argument_error("tenon::ops::gemm: the pieces of k have " + std::to_string(rows) + " rows, k is " +
                         std::to_string(k) + ". Fix: pieces that make up k.");
  return {pieces.size() > 1 ? pieces : std::span<k_piece const>(), leaf_of_all};
}

template <class C, class A, class B>
void check_gemm(gemm_args<C, A, B> const& g) {
  auto const is = [](auto const& v, index_t rows, index_t cols) { return v.extent(0) == rows && v.extent(1) == cols; };
  index_t const m = g.c.extent(0), n = g.c.extent(1), k = g.a.extent(1);
  if (!is(g.a, m, k) || !is(g.b, k, n))
    throw argument_error("tenon::ops::gemm: shapes do not fit. Fix: c [m,n], a [m,k], b [k,n].");
  if ((!g.residual.empty() && !is(g.residual, m, n)) || (!g.pre_activation.empty() && !is(g.pre_activation, m, n)))
    throw argument_error("tenon::ops::gemm: residual or pre_activation has not the shape of c. Fix: views of [m,n].");
  if (!has_unit_stride(g.a) || !has_unit_stride(g.b))
    throw argument_error("tenon::ops::gemm: an operand has no stride of 1. Fix: copy it into a matrix that has.");
}

}  // namespace detail

/// @test tests/ops/gemm_test.cpp
template <>
struct kernel_for<gemm_t, device::host> {
  template <Element C, Element A, Element B>
  static void run(exec::host_context& ctx, gemm_args<C, A, B> const& g) {
    detail::check_gemm(g);
    if (g.c.empty()) return;
    bool const across = g.c.stride(1) != 1 && g.c.stride(0) == 1;  // columns of c run fastest: c^T = b^T a^T
    auto const turn = [&](auto v) { return across && !v.empty() ? transposed(v) : v; };
    detail::gemm_epilogue<C> const epilogue{
        turn(g.c), g.bias, across, g.activation, g.accumulate, turn(g.residual), turn(g.pre_activation)};
    index_t const k = g.a.extent(1);
    if (k == 0) return store_zeros(epilogue);
    auto const map = detail::make_gemm_k_map(g.pieces, g.leaf, k);
    auto const rows = detail::make_gemm_operand<A>(g.a, 0);
    auto const cols = detail::make_gemm_operand<B>(g.b, 1);
    if (across) detail::gemm_driver<C, B, A>(ctx, cols, rows, k, map, epilogue).run();
    else detail::gemm_driver<C, A, B>(ctx, rows, cols, k, map, epilogue).run();
  }

 private:
  template <class C>
  static void store_zeros(detail::gemm_epilogue<C> const& epilogue) {
    float const zeros[lanes] = {};
    for (index_t i = 0; i < epilogue.c.extent(0); ++i)
      for (index_t j = 0; j < epilogue.c.extent(1); j += lanes)
        epilogue.store_tile(zeros, lanes, i, j, 1, int(std::min<index_t>(lanes, epilogue.c.extent(1) - j)));
  }
};

}  // namespace tenon::ops
