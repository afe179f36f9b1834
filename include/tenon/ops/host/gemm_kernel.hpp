// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The innermost loops: one tile of c in registers, over one block of k, with the tree of leaves.
#include <utility>

#include <tenon/exec/host/simd.hpp>
#include <tenon/ops/host/gemm_blocking.hpp>

namespace tenon::ops::detail {

/// f(0), f(1), ... f(N - 1) with the index as a constant: what keeps an array of accumulators in registers.
template <int N, class F>
TENON_ALWAYS_INLINE void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) TENON_INLINE_LAMBDA { (f(std::integral_constant<int, I>{}), ...); }
  (std::make_integer_sequence<int, N>{});
}

/// Keeps a loaded row of b in registers: compilers otherwise load it again for each row of the tile.
TENON_ALWAYS_INLINE simd::f32x16 pinned(simd::f32x16 x) {
#if TENON_SIMD_AVX512()
  asm volatile("" : "+v"(x.v));
#elif TENON_SIMD_AVX2()
  asm volatile("" : "+x"(x.lo), "+x"(x.hi));
#endif
  return x;
}

/// Memory that will be packed next, brought near while the kernel computes: runs of `count` cache lines.
struct gemm_prefetch {
  char const* at = nullptr;
  index_t stride = 0, jump = 0;  ///< bytes from step to step, and besides after a run
  index_t count = 1, left = 1;   ///< steps of a run, and of this one
  index_t remaining = 0;         ///< steps to go

  /// Steps to take at each of `turns` turns: evenly, since a burst waits for memory.
  int pace(index_t turns) const { return int(ceil_div(remaining, std::max<index_t>(turns, 1))); }
  TENON_ALWAYS_INLINE void step() {
    __builtin_prefetch(at, 0, 3);
    at += stride;
    if (--left == 0) at += jump, left = count;
    --remaining;
  }
};

/// A column panel in packed form, [k][gemm_tile::cols].
struct gemm_packed_columns {
  float const* at;
  template <int V>
  TENON_ALWAYS_INLINE simd::f32x16 take() const {
    return simd::load(at + V * lanes);
  }
  TENON_ALWAYS_INLINE void advance() { at += gemm_tile::cols; }
};
/// Columns where they lie, contiguous and used once.
template <class T>
struct gemm_streamed_columns {
  T const* at;
  index_t k_stride;
  template <int V>
  TENON_ALWAYS_INLINE simd::f32x16 take() const {
    return simd::load(at + V * lanes);
  }
  TENON_ALWAYS_INLINE void advance() { at += k_stride; }
};

/// One call of the kernel: a tile of c over [k0, k1), which is one block of `gemm_order`.
struct gemm_tile_job {
  float const* a;        ///< packed row panel, [k][R]
  index_t to_next_rows;  ///< from it to the row panel that follows: fetched ahead
  index_t k0, k1;
  float* inner;         ///< `inner_levels` tiles in L1: nodes of this block's subtree
  float* outer;         ///< `slots` tiles kept between blocks: an unfinished chain, then nodes of higher levels
  float* out;           ///< where a finished tile goes
  index_t out_stride;   ///< between its rows
  char const* c;        ///< what will be written after the last block: fetched ahead
  index_t c_stride;     ///< between its rows, in bytes
  gemm_prefetch* next;  ///< taken further during the call
  int steps;            ///< of `next`, for every eight values of k

  /// Where the pending node of a tree level is.
  TENON_ALWAYS_INLINE float* node(gemm_order const& order, int level) const {
    return level < order.inner_levels
               ? inner + level * gemm_tile::size
               : outer + (level - order.inner_levels + order.first_node_slot()) * gemm_tile::size;
  }
};

/// Adds the products of one block to a tile. R rows (at most gemm_tile::rows), V vectors of sixteen columns.
/// At the end of k the sums are written to `out`, before it to `outer`.
template <int R, int V, class Columns>
TENON_NOINLINE void gemm_tile_kernel(gemm_order const& order, gemm_tile_job const& job, Columns b) {
  constexpr int cols = V * lanes;
  static_assert(R * cols <= gemm_tile::size);
  simd::f32x16 sum[R][V];
  auto const each = [&](auto&& f) TENON_INLINE_LAMBDA {
    unrolled<R * V>([&](auto i) TENON_INLINE_LAMBDA { f(sum[i / V][i % V], int(i) / V * cols + int(i) % V * lanes); });
  };
  float const* a = job.a;
  char const* c = job.c;
  int c_rows = job.k1 == order.k ? R : 0;  // one row of the tile is fetched every few k
  index_t leaf = job.k0 / order.leaf;
  for (index_t k = job.k0; k < job.k1; ++leaf) {
    index_t const leaf_begin = leaf * order.leaf, leaf_end = std::min(leaf_begin + order.leaf, order.k);
    index_t const end = std::min(leaf_end, job.k1);
    if (k == leaf_begin) each([](simd::f32x16& s, int) TENON_INLINE_LAMBDA { s = simd::zeros(); });
    else each([&](simd::f32x16& s, int at) TENON_INLINE_LAMBDA { s = simd::load(job.outer + at); });
    auto const multiply = [&]() TENON_INLINE_LAMBDA {
      simd::f32x16 row[V];
      unrolled<V>([&](auto v) TENON_INLINE_LAMBDA {
        row[v] = b.template take<v>();
        if constexpr (R > 1) row[v] = pinned(row[v]);
      });
      unrolled<R>([&](auto r) TENON_INLINE_LAMBDA {
        simd::f32x16 const x = simd::broadcast(a[r]);
        unrolled<V>([&](auto v) TENON_INLINE_LAMBDA { sum[r][v] = simd::fma(x, row[v], sum[r][v]); });
      });
      a += R, b.advance();
    };
    while (k < end) {
      if (c_rows > 0) {
        unrolled<V>([&](auto v) TENON_INLINE_LAMBDA { __builtin_prefetch(c + v * cache_line_bytes, 1, 3); });
        c += job.c_stride;
        --c_rows;
      }
      for (int i = 0; i < 8 * R; i += lanes) __builtin_prefetch(a + job.to_next_rows + i, 0, 3);
      for (int step = 0; step < job.steps && job.next->remaining > 0; ++step) job.next->step();
      index_t const stop = std::min(k + 8, end);
      for (; k + 1 < stop; k += 2) {  // unrolled further, g++ 12 spills accumulators
        multiply();
        multiply();
      }
      if (k < stop) multiply(), ++k;
    }
    bool const last = leaf + 1 == order.leaves;
    float* to = job.outer;
    if (end == leaf_end) {
      std::uint64_t const nodes = gemm_nodes_to_add(std::uint64_t(leaf), last);
      for (std::uint64_t left = nodes; left; left &= left - 1) {
        float const* const p = job.node(order, std::countr_zero(left));
        each([&](simd::f32x16& s, int at) TENON_INLINE_LAMBDA { s = simd::load(p + at) + s; });
      }
      if (last) {
        each([&](simd::f32x16& s, int at)
                 TENON_INLINE_LAMBDA { simd::store(job.out + at / cols * job.out_stride + at % cols, s); });
        return;
      }
      to = job.node(order, std::popcount(nodes));
    }
    each([&](simd::f32x16& s, int at) TENON_INLINE_LAMBDA { simd::store(to + at, s); });
  }
}

template <class Columns>
using gemm_kernel_function = void (*)(gemm_order const&, gemm_tile_job const&, Columns);

/// The kernel for a tile of `rows`, which is one of R, by V vectors of columns.
template <int V, int... R, class Columns>
void call_gemm_kernel(int rows, gemm_order const& order, gemm_tile_job const& job, Columns const& columns) {
  gemm_kernel_function<Columns> kernel = nullptr;
  ((rows == R ? void(kernel = gemm_tile_kernel<R, V, Columns>) : void()), ...);
  kernel(order, job, columns);
}

}  // namespace tenon::ops::detail
