// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The inner loops of products with weights in blocks: one row of activations with weights where they lie, several
/// rows with weights unpacked once.
#include <bit>

#include <tenon/ops/host/gemm_blocking.hpp>
#include <tenon/ops/host/gemm_kernel.hpp>
#include <tenon/ops/host/weight_blocks.hpp>
#include <tenon/ops/linear.hpp>

namespace tenon::ops::detail {

/// Outputs of a tile are P panels of sixteen, tokens at most `tokens`.
struct linear_tile {
  static constexpr int panels = TENON_SIMD_AVX512() ? 2 : 1;
  static constexpr int tokens = TENON_SIMD_AVX512() ? 6 : 2;
  static constexpr int cols = panels * lanes;
  static constexpr int size = tokens * cols;
};

/// A row of k in groups, leaf by leaf.
struct linear_leaves {
  index_t groups;       ///< of all of k
  index_t leaf_groups;  ///< of a leaf
  linear_leaves(index_t k, index_t leaf, index_t group)
      : groups(k / group), leaf_groups(leaf > 0 && leaf < k ? leaf / group : groups) {}
  index_t count() const { return ceil_div(groups, leaf_groups); }
  index_t node_values() const { return tree_levels(count()) * linear_tile::size; }

  /// To be called after group i: at the end of a leaf its sums go to the tree, whose root they are in the end.
  /// `nodes`: node_values() floats.
  template <std::size_t N>
  TENON_ALWAYS_INLINE void close(index_t i, simd::f32x16 (&sum)[N], float* nodes) const {
    if (leaf_groups == groups || ((i + 1) % leaf_groups && i + 1 < groups)) return;
    index_t const leaf = i / leaf_groups;
    bool const last = i + 1 == groups;
    std::uint64_t const add = gemm_nodes_to_add(std::uint64_t(leaf), last);
    for (std::uint64_t left = add; left; left &= left - 1) {
      float const* const node = nodes + std::countr_zero(left) * linear_tile::size;
      for (std::size_t n = 0; n < N; ++n) sum[n] = simd::load(node + n * lanes) + sum[n];
    }
    if (last) return;
    float* const node = nodes + std::popcount(add) * linear_tile::size;
    for (std::size_t n = 0; n < N; ++n) {
      simd::store(node + n * lanes, sum[n]);
      sum[n] = simd::zeros();
    }
  }
};

/// The strips of weights that a thread reads next. Each is asked for twice: early for the second-level cache, and, while the
/// strip before it is read, for the first, as loads that miss that one wait behind what was asked of memory.
struct linear_ahead {
  std::byte const* next;
  std::byte const* after;
  /// `bytes` more of both.
  TENON_ALWAYS_INLINE void fetch(index_t bytes) {
    for (index_t at = 0; at < bytes; at += cache_line_bytes) {
      __builtin_prefetch(after + at, 0, 2);
      __builtin_prefetch(next + at, 0, 3);
    }
    next += bytes, after += bytes;
  }
};

/// Value J of a group of numbers that `load_turned` has turned.
template <class T, int J>
TENON_ALWAYS_INLINE simd::f32x16 number_of(std::array<simd::i32x16, 4> const& t) {
  constexpr std::size_t at = std::size_t(J) * sizeof(T) / 4;
  if constexpr (std::same_as<T, float>) return simd::from_bits(t[at]);
  else if constexpr (std::same_as<T, fp16>) return J % 2 ? blocks::high_half(t[at]) : blocks::low_half(t[at]);
  else if constexpr (J % 2) return simd::from_bits(t[at] & simd::broadcast_int(std::int32_t(0xffff0000u)));
  else return simd::from_bits(simd::shift_left<16>(t[at]));
}
/// Numbers that are turned at a time.
template <class T>
inline constexpr index_t number_group = 16 / index_t(sizeof(T));

/// out [R, 16] = R rows of x, `x_stride` apart, times sixteen rows of weights that are numbers.
template <class T, int R>
TENON_NOINLINE void multiply_numbers(std::byte const* p, index_t stride, float const* x, index_t x_stride,
                                     linear_leaves const& leaves, float* nodes, linear_ahead ahead, float* out) {
  constexpr int group = int(number_group<T>);
  simd::f32x16 sum[R];
  unrolled<R>([&](auto r) TENON_INLINE_LAMBDA { sum[r] = simd::zeros(); });
  for (index_t i = 0; i < leaves.groups; ++i, p += 16, x += group) {
    ahead.fetch(16 * lanes);
    auto const t = simd::load_turned(p, stride);
    unrolled<group>([&](auto j) TENON_INLINE_LAMBDA {
      simd::f32x16 const w = number_of<T, j>(t);
      unrolled<R>([&](auto r)
                      TENON_INLINE_LAMBDA { sum[r] = simd::fma(simd::broadcast(x[r * x_stride + j]), w, sum[r]); });
    });
    leaves.close(i, sum, nodes);
  }
  unrolled<R>([&](auto r) TENON_INLINE_LAMBDA { simd::store(out + r * lanes, sum[r]); });
}

/// The widest of these for at most `left` rows of x; returns how many it did.
template <class T>
int multiply_number_rows(std::byte const* p, index_t stride, float const* x, index_t x_stride, index_t left,
                         linear_leaves const& leaves, float* nodes, linear_ahead ahead, float* out) {
  auto const run = [&]<int R>(std::integral_constant<int, R>) {
    multiply_numbers<T, R>(p, stride, x, x_stride, leaves, nodes, ahead, out);
    return R;
  };
  if constexpr (linear_tile::size >= 8 * lanes) {
    if (left >= 8) return run(std::integral_constant<int, 8>());
    if (left >= 4) return run(std::integral_constant<int, 4>());
  }
  if (left >= 2) return run(std::integral_constant<int, 2>());
  return run(std::integral_constant<int, 1>());
}

/// Four of the values, in every lane.
TENON_ALWAYS_INLINE simd::i32x16 broadcast_values(quantized_block const& x, int i) {
  std::int32_t four;
  std::memcpy(&four, x.values + 4 * i, sizeof four);
  return simd::broadcast_int(four);
}

/// out [16] = sixteen rows of weights, which begin at p, times x.
template <weight_format F>
TENON_NOINLINE void multiply_row(std::byte const* p, index_t stride, quantized_block const* x,
                                 linear_leaves const& leaves, float* nodes, linear_ahead ahead, float* out) {
  constexpr weight_traits traits = traits_of(F);
  constexpr index_t step = lanes * weight_group * layout_of(F).bytes / layout_of(F).values;
  simd::f32x16 sum[1] = {simd::zeros()};
  for_each_group<F>(
      p, stride, leaves.groups * weight_group, [&](index_t i, weight_group_rows const& g) TENON_INLINE_LAMBDA {
        ahead.fetch(step);
        quantized_block const& q = x[i];
        simd::i32x16 dot[2] = {
            simd::broadcast_int(-traits.offset * (traits.halves ? q.sums[0] : q.sums[0] + q.sums[1])),
            simd::broadcast_int(traits.halves ? -traits.offset * q.sums[1] : 0)};
        unrolled<8>([&](auto c) TENON_INLINE_LAMBDA {
          dot[c / 4] = simd::add_products<traits.wide>(dot[c / 4], g.bytes[c], broadcast_values(q, c));
        });
        simd::f32x16 const value =
            traits.halves ? simd::fma(simd::to_float(dot[0]), g.part[0], simd::to_float(dot[1]) * g.part[1])
                          : simd::to_float(dot[0] + dot[1]);
        sum[0] = simd::fma(value, g.scale * simd::broadcast(q.scale), sum[0]);
        if constexpr (traits_of(F).minimum && !traits_of(F).halves)
          sum[0] = simd::fma(g.minimum[0], simd::broadcast(q.scaled_sum), sum[0]);
        if constexpr (traits_of(F).minimum && traits_of(F).halves)
          for (int h = 0; h < 2; ++h)
            sum[0] = simd::fma(g.minimum[h], simd::broadcast(q.scale * float(q.sums[h])), sum[0]);
        leaves.close(i, sum, nodes);
      });
  simd::store(out, sum[0]);
}

/// Sixteen rows of weights, unpacked: per group of 32 values what `weight_group_rows` holds.
struct weight_panel {
  static constexpr int scale = 8 * lanes, minimum = 9 * lanes, part = 11 * lanes, group_floats = 13 * lanes;
  static index_t floats(index_t groups) { return groups * group_floats; }
};

/// The weights that are unpacked next, for the second-level cache: they come while those before them are multiplied.
struct linear_fetch {
  std::byte const* at;
  index_t left;  ///< bytes
  index_t each;  ///< so many at a time
  TENON_ALWAYS_INLINE void some() {
    if (left <= 0) return;
    for (index_t i = 0; i < each; i += cache_line_bytes) __builtin_prefetch(at + i, 0, 2);
    at += each, left -= each;
  }
};

template <weight_format F>
TENON_NOINLINE void unpack_panel(std::byte const* p, index_t stride, index_t cols, linear_fetch& next, float* panel) {
  constexpr weight_traits traits = traits_of(F);
  for_each_group<F>(p, stride, cols, [&](index_t, weight_group_rows const& g) TENON_INLINE_LAMBDA {
    next.some();
    for (int c = 0; c < 8; ++c) simd::store(panel + c * lanes, simd::from_bits(g.bytes[c]));
    simd::store(panel + weight_panel::scale, g.scale);
    for (int h = 0; h < (traits.halves ? 2 : 1); ++h) {
      if (traits.minimum) simd::store(panel + weight_panel::minimum + h * lanes, g.minimum[h]);
      if (traits.halves) simd::store(panel + weight_panel::part + h * lanes, g.part[h]);
    }
    panel += weight_panel::group_floats;
  });
}

/// What the tiles of one strip of outputs share.
struct linear_strip {
  weight_traits traits;
  linear_leaves leaves;
  float const* panel;  ///< linear_tile::panels of them, `panel_floats` apart
  index_t panel_floats;
  float* nodes;
};

/// out [T, linear_tile::cols] = T rows of x, `stride` blocks apart, times the strip's weights.
template <int T, bool Halves, bool Wide>
TENON_NOINLINE void multiply_tile(linear_strip const& strip, quantized_block const* x, index_t stride,
                                  linear_fetch& next, float* out) {
  constexpr int P = linear_tile::panels, N = T * P;
  auto const each = [](auto&& f)
                        TENON_INLINE_LAMBDA { unrolled<N>([&](auto i) TENON_INLINE_LAMBDA { f(i, i / P, i % P); }); };
  simd::f32x16 sum[N];
  each([&](int i, int, int) TENON_INLINE_LAMBDA { sum[i] = simd::zeros(); });
  float const* group[P];
  for (int p = 0; p < P; ++p) group[p] = strip.panel + p * strip.panel_floats;
  linear_fetch fetch = next;
  for (index_t b = 0; b < strip.leaves.groups; ++b, ++x) {
    fetch.some();
    auto const at = [&](int t) TENON_INLINE_LAMBDA -> quantized_block const& { return x[t * stride]; };
    simd::i32x16 dot[N];
    auto const add_values = [&](int first, int last) TENON_INLINE_LAMBDA {
      for (int c = first; c < last; ++c) {
        simd::i32x16 w[P];
        for (int p = 0; p < P; ++p) w[p] = simd::bits(simd::load(group[p] + c * lanes));
        unrolled<T>([&](auto t) TENON_INLINE_LAMBDA {
          simd::i32x16 const four = broadcast_values(at(t), c);
          unrolled<P>([&](auto p) TENON_INLINE_LAMBDA {
            dot[t * P + p] = simd::add_products<Wide>(dot[t * P + p], w[p], four);
          });
        });
      }
    };
    auto const begin = [&](auto&& sum_of) TENON_INLINE_LAMBDA {
      unrolled<T>([&](auto t) TENON_INLINE_LAMBDA {
        simd::i32x16 const start = simd::broadcast_int(-strip.traits.offset * sum_of(at(t)));
        unrolled<P>([&](auto p) TENON_INLINE_LAMBDA { dot[t * P + p] = start; });
      });
    };
    auto const vector = [&](int p, int v) TENON_INLINE_LAMBDA { return simd::load(group[p] + v); };
    simd::f32x16 value[N];
    if constexpr (Halves) {
      begin([](quantized_block const& q) TENON_INLINE_LAMBDA { return int(q.sums[0]); });
      add_values(0, 4);
      each([&](int i, int, int) TENON_INLINE_LAMBDA { value[i] = simd::to_float(dot[i]); });
      begin([](quantized_block const& q) TENON_INLINE_LAMBDA { return int(q.sums[1]); });
      add_values(4, 8);
      each([&](int i, int, int p) TENON_INLINE_LAMBDA {
        value[i] = simd::fma(value[i], vector(p, weight_panel::part),
                             simd::to_float(dot[i]) * vector(p, weight_panel::part + lanes));
      });
    } else {
      begin([](quantized_block const& q) TENON_INLINE_LAMBDA { return q.sums[0] + q.sums[1]; });
      add_values(0, 8);
      each([&](int i, int, int) TENON_INLINE_LAMBDA { value[i] = simd::to_float(dot[i]); });
    }
    each([&](int i, int t, int p) TENON_INLINE_LAMBDA {
      sum[i] = simd::fma(value[i], vector(p, weight_panel::scale) * simd::broadcast(at(t).scale), sum[i]);
    });
    if (strip.traits.minimum) {
      each([&](int i, int t, int p) TENON_INLINE_LAMBDA {
        if constexpr (!Halves)
          sum[i] = simd::fma(vector(p, weight_panel::minimum), simd::broadcast(at(t).scaled_sum), sum[i]);
        else
          for (int h = 0; h < 2; ++h)
            sum[i] = simd::fma(vector(p, weight_panel::minimum + h * lanes),
                               simd::broadcast(at(t).scale * float(at(t).sums[h])), sum[i]);
      });
    }
    strip.leaves.close(b, sum, strip.nodes);
    for (int p = 0; p < P; ++p) group[p] += weight_panel::group_floats;
  }
  each([&](int i, int, int) TENON_INLINE_LAMBDA { simd::store(out + i * lanes, sum[i]); });
  next = fetch;
}

/// The widest tile of at most `left` tokens; returns how many it did.
inline int multiply_tokens(linear_strip const& strip, quantized_block const* x, index_t stride, index_t left,
                           linear_fetch& next, float* out) {
  int done = 0;
  auto const try_tile = [&]<int T>(std::integral_constant<int, T>) {
    if (done || left < T || T > linear_tile::tokens) return;
    done = T;
    if (strip.traits.halves) multiply_tile<T, true, false>(strip, x, stride, next, out);
    else if (strip.traits.wide && !TENON_SIMD_VNNI())
      multiply_tile<T, false, !TENON_SIMD_VNNI()>(strip, x, stride, next, out);
    else multiply_tile<T, false, false>(strip, x, stride, next, out);
  };
  if constexpr (linear_tile::tokens >= 6) {
    try_tile(std::integral_constant<int, 6>());
    try_tile(std::integral_constant<int, 4>());
  }
  try_tile(std::integral_constant<int, 2>());
  try_tile(std::integral_constant<int, 1>());
  return done;
}

}  // namespace tenon::ops::detail
