// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Matrix multiplication on the host: packed panels, blocks for the caches, work over the thread pool.
#include <atomic>

#include <tenon/exec/host/context.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/host/gemm_epilogue.hpp>
#include <tenon/ops/host/gemm_kernel.hpp>
#include <tenon/ops/host/gemm_pack.hpp>

namespace tenon::ops {
namespace detail {

/// How the work is cut for the caches and threads. Changes time, never a bit of the result.
struct gemm_plan {
  static constexpr index_t packed_a_values = index_t(2) << 20;  ///< 8 MiB: in L3
  static constexpr index_t least_block_m = 43 * gemm_tile::rows;
  static constexpr index_t most_block_n = 8 * gemm_tile::cols;
  static constexpr index_t least_block_n = 3 * gemm_tile::cols;
  static constexpr index_t chunk_panels = 20;  ///< row panels whose state is kept in L2 at a time
  static constexpr double least_parallel_work = 64.0 * 64 * 64;

  index_t m, n;
  gemm_order order;
  index_t block_m;       ///< rows of packed a
  index_t super_blocks;  ///< blocks of k of packed a
  index_t block_n;       ///< columns of packed b, for one thread
  index_t units_m;       ///< pieces of the rows of a block_m x block_n unit of work
  int threads;

  gemm_plan(index_t rows, index_t cols, index_t k, index_t leaf, int pool_threads) : m(rows), n(cols), order(k, leaf) {
    constexpr index_t tile_rows = gemm_tile::rows, tile_cols = gemm_tile::cols;
    threads = double(m) * double(n) * double(k) < least_parallel_work ? 1 : pool_threads;
    index_t const padded_m = round_up(m, tile_rows), padded_k = order.blocks * order.block;
    block_m = padded_m;
    super_blocks = order.blocks;
    if (padded_m * padded_k > packed_a_values) {
      index_t const fits = std::max(packed_a_values / padded_k, least_block_m);
      block_m = round_up(ceil_div(m, ceil_div(m, fits)), tile_rows);
      index_t const blocks_that_fit = std::max<index_t>(1, packed_a_values / (block_m * order.block));
      super_blocks = ceil_div(order.blocks, ceil_div(order.blocks, blocks_that_fit));
    }
    index_t const share = round_up(ceil_div(n, 4 * threads), tile_cols);
    block_n = threads == 1 ? most_block_n : std::clamp(share, least_block_n, most_block_n);
    block_n = round_up(ceil_div(n, ceil_div(n, block_n)), tile_cols);
    index_t const units_n = ceil_div(n, block_n);
    units_m = units_n >= 2 * threads || threads == 1 ? 1 : ceil_div(index_t(2 * threads), units_n);
    units_m = std::min(units_m, ceil_div(block_m, tile_rows));
  }
  /// Rows of c that one row panel holds: `count` of `kernel_rows` are real.
  struct panel_rows {
    index_t first;
    int count, kernel_rows;
  };
  /// Panel `panel` of the rows [first, end). What is left after whole panels is shared by the last two, if it is little:
  /// a panel of one step of rows would wait for memory.
  static panel_rows panel_at(index_t first, index_t end, index_t panel) {
    constexpr index_t whole = gemm_tile::rows, step = gemm_tile::row_step;
    index_t const panels = ceil_div(end - first, whole), rest = end - first - (panels - 1) * whole;
    index_t at = first + panel * whole, rows = std::min(whole, end - at);
    if (rest <= step && panel >= panels - 2 && panels > 1) {
      rows = panel == panels - 2 ? 2 * step : step + rest;
      at = panel == panels - 2 ? at : end - rows;
    }
    return {at, int(rows), int(round_up(rows, step))};
  }
  bool whole_k() const { return super_blocks >= order.blocks; }
  index_t a_panel_values() const { return gemm_tile::rows * order.block + gemm_pack_slack; }
  index_t b_slice_values() const { return block_n * order.block + gemm_pack_slack; }
  index_t b_panels() const { return block_n / gemm_tile::cols; }
};

/// function(thread, i, next) for i in [0, n): on the calling thread when `threads` is one. `next` is what the same thread
/// will do afterwards, or -1: near the end nothing is claimed ahead, so that no thread waits for another's backlog.
template <class Function>
void gemm_share(exec::thread_pool& pool, int threads, index_t n, Function&& function) {
  if (threads == 1) {
    for (index_t i = 0; i < n; ++i) function(0, i, i + 1 < n ? i + 1 : -1);
    return;
  }
  std::atomic<index_t> counter{0};
  pool.run([&](int t) {
    auto const claim = [&] { return counter.fetch_add(1, std::memory_order_relaxed); };
    for (index_t i = claim(); i < n;) {
      bool const ahead = i + 3 * threads < n;
      index_t const next = ahead ? claim() : -1;
      function(t, i, next);
      i = ahead ? next : claim();
    }
  });
}

/// One multiplication c [m,n] = a [m,k] b [k,n] with c's columns contiguous.
template <class C, class A, class B>
class gemm_driver {
 public:
  gemm_driver(exec::host_context& ctx, gemm_operand<A> left, gemm_operand<B> right, index_t k, index_t leaf,
              gemm_epilogue<C> const& e)
      : pool(ctx.pool()), memory(ctx.scratch()), a(left), b(right), epilogue(e), plain(e.plain()),
        plan(left.strip_extent, right.strip_extent, k, leaf, ctx.pool().size()) {}

  void run() {
    arena_scope scope(memory);
    index_t const panels = plan.block_m / gemm_tile::rows;
    packed_a = memory.allocate<float>(panels * plan.super_blocks * plan.a_panel_values());
    chunk = plan.order.blocks > 1 ? std::min(gemm_plan::chunk_panels, panels) : panels;
    slices = ceil_div(panels, plan.units_m) > chunk ? plan.super_blocks : 1;
    tile_state = plan.order.slots * gemm_tile::size;
    workspace_values = round_up(slices * plan.b_slice_values(), lanes) + (gemm_inner_levels + 1) * gemm_tile::size +
                       (plan.whole_k() ? chunk * plan.b_panels() * tile_state : 0);
    workspaces = memory.allocate<float>(plan.threads * workspace_values);
    if (!plan.whole_k()) state = memory.allocate<float>(panels * ceil_div(plan.n, gemm_tile::cols) * tile_state);
    for (index_t row = 0; row < plan.m; row += plan.block_m)
      for (index_t block = 0; block < plan.order.blocks; block += plan.super_blocks)
        run_block(row, block, std::min(block + plan.super_blocks, plan.order.blocks));
  }

 private:
  struct unit {
    index_t row, panels;  ///< packed a: its first row, its panels
    index_t panel_begin, panel_end;
    index_t col;
    index_t block_begin, block_end;
  };

  /// Rows [row, row + block_m) and blocks of k [first, last).
  void run_block(index_t row, index_t first, index_t last) {
    index_t const panels = ceil_div(std::min(plan.block_m, plan.m - row), gemm_tile::rows);
    index_t const groups = ceil_div(panels, pack_group);
    gemm_share(pool, plan.threads, groups * (last - first), [&](int, index_t i, index_t) {
      index_t const block = first + i / groups, panel = i % groups * pack_group;
      pack_rows(row, panel, std::min(panel + pack_group, panels), block,
                packed_a + (i / groups * panels + panel) * plan.a_panel_values());
    });
    index_t const units = ceil_div(plan.n, plan.block_n) * plan.units_m;
    gemm_share(pool, plan.threads, units, [&](int thread, index_t i, index_t next) {
      auto const unit_at = [&](index_t at) {
        index_t const part = at % plan.units_m;
        return unit{row,
                    panels,
                    panels * part / plan.units_m,
                    panels * (part + 1) / plan.units_m,
                    at / plan.units_m * plan.block_n,
                    first,
                    last};
      };
      run_unit(unit_at(i), next < 0 ? -1 : unit_at(next).col, workspaces + thread * workspace_values);
    });
  }

  /// Row panels [begin, end) of a block of k; the last two may be strips of a width of their own.
  void pack_rows(index_t row, index_t begin, index_t end, index_t block, float* to) const {
    gemm_strips strips{to,
                       plan.a_panel_values(),
                       0,
                       gemm_tile::rows,
                       row + begin * gemm_tile::rows,
                       plan.order.begin(block),
                       plan.order.end(block)};
    for (index_t panel = begin; panel < end; ++panel)
      strips.strips += rows_of_panel(row, panel).count == gemm_tile::rows;
    if (strips.strips) pack_strips(strips, a);
    for (index_t panel = begin + strips.strips; panel < end; ++panel) {
      auto const rows = rows_of_panel(row, panel);
      pack_strips(gemm_strips{to + (panel - begin) * strips.strip_values, strips.strip_values, 1, rows.kernel_rows,
                              rows.first, strips.k0, strips.k1},
                  a);
    }
  }
  gemm_plan::panel_rows rows_of_panel(index_t row, index_t panel) const {
    return gemm_plan::panel_at(row, std::min(row + plan.block_m, plan.m), panel);
  }

  /// One block of k of a unit's columns.
  struct slice {
    index_t block, col;
    int width;
    float* packed;
    gemm_prefetch* ahead;
    int steps;
    bool packing;  ///< whole column panels are packed by the row panel that uses them first
  };

  /// `next_col` is where this thread goes on afterwards, or -1.
  void run_unit(unit const& u, index_t next_col, float* workspace) const {
    float* const tiles = workspace + round_up(slices * plan.b_slice_values(), lanes);
    float* const kept = tiles + (gemm_inner_levels + 1) * gemm_tile::size;
    int const width = int(std::min(plan.block_n, plan.n - u.col));
    int const steps = u.panel_end - u.panel_begin < 4 ? 8 : 2;
    for (index_t p0 = u.panel_begin; p0 < u.panel_end; p0 += chunk)
      for (index_t block = u.block_begin; block < u.block_end; ++block) {
        gemm_prefetch ahead;
        slice s{block,  u.col, width, workspace + (block - u.block_begin) % slices * plan.b_slice_values(),
                &ahead, steps, false};
        bool const fresh = p0 == u.panel_begin || slices == 1;
        if (fresh) s.packing = begin_packing(s);
        if (fresh && block + 1 < u.block_end) ahead = prefetch_columns(u.col, block + 1);
        else if (next_col >= 0 && block + 1 == u.block_end && p0 + chunk >= u.panel_end)
          ahead = prefetch_columns(next_col, u.block_begin);
        for (index_t p = p0; p < std::min(p0 + chunk, u.panel_end); ++p, s.packing = false)
          run_panel(u, p, s, tiles, kept + (p - p0) * plan.b_panels() * tile_state);
      }
  }

  gemm_prefetch prefetch_columns(index_t col, index_t block) const {
    return prefetch_of(b, col, std::min(col + plan.block_n, plan.n), plan.order.begin(block), plan.order.end(block));
  }

  /// Packs the columns of a slice; or, when whole panels can be read where they lie, only a last narrow one.
  bool begin_packing(slice const& s) const {
    index_t const k0 = plan.order.begin(s.block), k1 = plan.order.end(s.block), panel = (k1 - k0) * gemm_tile::cols;
    bool const direct = b.k_stride != 1;
    int const done = direct ? s.width / gemm_tile::cols : 0, strips = int(ceil_div(s.width, gemm_tile::cols)) - done;
    if (strips > 0)
      pack_strips(
          gemm_strips{s.packed + done * panel, panel, strips, gemm_tile::cols, s.col + done * gemm_tile::cols, k0, k1},
          b);
    return direct;
  }

  /// One row panel against all column panels of a slice.
  void run_panel(unit const& u, index_t panel, slice const& s, float* tiles, float* local_state) const {
    gemm_order const& order = plan.order;
    index_t const i = (s.block - u.block_begin) * u.panels + panel;
    auto const [row, rows, kernel_rows] = rows_of_panel(u.row, panel);
    float* const scratch = tiles + gemm_inner_levels * gemm_tile::size;
    gemm_tile_job job{packed_a + i * plan.a_panel_values(),
                      order.begin(s.block),
                      order.end(s.block),
                      tiles,
                      local_state,
                      scratch,
                      gemm_tile::cols,
                      nullptr,
                      epilogue.c.stride(0) * index_t(sizeof(C)),
                      s.ahead,
                      s.steps};
    index_t const tiles_per_row = ceil_div(plan.n, gemm_tile::cols), b_panel = gemm_tile::cols * (job.k1 - job.k0);
    if (!plan.whole_k()) job.outer = state + (panel * tiles_per_row + s.col / gemm_tile::cols) * tile_state;
    gemm_prefetch next_panel = next_row_panel(job, kernel_rows, panel + 1 < u.panel_end);
    for (int j = 0; j < s.width; j += gemm_tile::cols, job.outer += tile_state) {
      if (j + gemm_tile::cols >= s.width) job.next = &next_panel, job.steps = 4;
      int const cols = std::min(gemm_tile::cols, s.width - j);
      C* const to = &epilogue.c(row, s.col + j);
      bool const in_place = plain && rows == kernel_rows && cols % lanes == 0;
      job.c = reinterpret_cast<char const*>(to);
      if constexpr (std::same_as<C, float>) {
        job.out = in_place ? to : scratch;
        job.out_stride = in_place ? epilogue.c.stride(0) : index_t(gemm_tile::cols);
      }
      float* const packed = s.packed + j / gemm_tile::cols * b_panel;
      if (s.packing && cols == gemm_tile::cols)
        call_kernel<gemm_tile::vectors>(kernel_rows, job,
                                        gemm_direct_columns<B>{b.at(s.col + j, job.k0), b.k_stride, packed});
      else if (cols > lanes) call_kernel<gemm_tile::vectors>(kernel_rows, job, gemm_packed_columns{packed});
      else call_kernel<1>(kernel_rows, job, gemm_packed_columns{packed});
      if (s.block + 1 == order.blocks && !in_place)
        epilogue.store_tile(scratch, gemm_tile::cols, row, s.col + j, rows, cols);
    }
  }
  gemm_prefetch next_row_panel(gemm_tile_job const& job, int rows, bool exists) const {
    index_t const bytes = rows * (job.k1 - job.k0) * index_t(sizeof(float));
    return {reinterpret_cast<char const*>(job.a + plan.a_panel_values()),
            gemm_prefetch::lines_bytes,
            0,
            1,
            1,
            exists ? bytes / gemm_prefetch::lines_bytes : 0};
  }
  template <int V, class Columns>
  void call_kernel(int rows, gemm_tile_job const& job, Columns columns) const {
    gemm_kernel_for<V, Columns>(rows)(plan.order, job, columns);
  }

  static constexpr index_t pack_group = 8;  ///< row panels packed by one thread at a time

  exec::thread_pool& pool;
  arena& memory;
  gemm_operand<A> a;
  gemm_operand<B> b;
  gemm_epilogue<C> epilogue;
  bool plain;
  gemm_plan plan;
  float *packed_a = nullptr, *workspaces = nullptr, *state = nullptr;
  index_t chunk = 0, slices = 0, tile_state = 0, workspace_values = 0;
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
    auto const rows = detail::make_gemm_operand<A>(g.a, 0);
    auto const cols = detail::make_gemm_operand<B>(g.b, 1);
    if (across) detail::gemm_driver<C, B, A>(ctx, cols, rows, k, g.leaf, epilogue).run();
    else detail::gemm_driver<C, A, B>(ctx, rows, cols, k, g.leaf, epilogue).run();
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
