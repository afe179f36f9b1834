// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <array>
#include <bit>

#include <tenon/exec/host/math.hpp>
#include <tenon/ops/cross_entropy.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/host/elementwise.hpp>
#include <tenon/ops/host/gemm.hpp>
#include <tenon/ops/host/log_sum_exp.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {
namespace detail {

/// Where the vocabulary is cut. A block is an aligned group of 2^n of the rank's leaves, hence a node of the tree; the
/// last may be smaller. Rows and blocks are counted from the rank's first, leaves from the vocabulary's.
struct vocabulary_blocks {
  static constexpr index_t least_rows = 1024;  ///< enough for gemm to run at its pace
  index_t rows, leaf, leaves, first_leaf, leaves_in_block = 1, count;

  vocabulary_blocks(index_t vocabulary, index_t leaf_rows, index_t first_row, index_t held_rows)
      : rows(held_rows), leaf(leaf_rows > 0 ? leaf_rows : reduction_order::feature_leaf(vocabulary)),
        leaves(ceil_div(vocabulary, leaf)), first_leaf(first_row / leaf) {
    index_t const held = ceil_div(rows, leaf);
    while (leaves_in_block < held && leaves_in_block * leaf < least_rows) leaves_in_block *= 2;
    count = ceil_div(held, leaves_in_block);
    index_t const after = vocabulary - first_row - rows;
    require(rows == 0 || (first_row >= 0 && first_row % leaf == 0 && (after == 0 || (after > 0 && rows % leaf == 0))),
            "tenon::linear_cross_entropy: a rank's rows are not whole leaves of the vocabulary. "
            "Fix: first_row at a multiple of the leaf, so many rows that the next rank's is one too.");
  }
  index_t begin(index_t block) const { return block * leaves_in_block * leaf; }
  index_t end(index_t block) const { return std::min(rows, begin(block + 1)); }
  index_t width() const { return std::min(rows, leaves_in_block * leaf); }
};

/// cap tanh(logit / cap), in place.
inline void cap_logits(float* logits, index_t n, float cap) {
  using namespace simd;
  for_lanes(0, n, [&](index_t j, int k) TENON_INLINE_LAMBDA {
    store(logits + j, simd::tanh(load(logits + j, k) / broadcast(cap)) * broadcast(cap), k);
  });
}

/// One row of logits [n] becomes the gradient: (exp(logit - maximum) factor - scale at the target), through the cap.
/// `target` is counted from the row's first logit and may lie outside.
inline void logits_to_gradient(float* row, index_t n, index_t target, float maximum, float factor, float scale,
                               float cap) {
  using namespace simd;
  auto const gradient = [&](index_t j, int k, bool at_target) TENON_INLINE_LAMBDA {
    f32x16 const logit = load(row + j, k);
    f32x16 d = simd::exp(logit - broadcast(maximum)) * broadcast(factor);
    if (at_target) {
      float one_hot[lanes] = {};
      one_hot[target - j] = -scale;
      d = fma(simd::exp(logit - broadcast(maximum)), broadcast(factor), load(one_hot));
    }
    if (cap != 0) {
      f32x16 const t = logit / broadcast(cap);
      d = d * fma(negate(t), t, broadcast(1.0f));
    }
    store(row + j, d, k);
  };
  for_lanes(0, n, [&](index_t j, int k) TENON_INLINE_LAMBDA { gradient(j, k, target >= j && target < j + k); });
}

template <class T>
class cross_entropy_driver {
 public:
  cross_entropy_driver(exec::host_context& context, linear_cross_entropy_args<T> const& args, vocabulary_blocks blocks)
      : ctx(context), a(args), tokens(args.hidden.extent(0)), cols(args.hidden.extent(1)), cut(blocks) {}

  void run() {
    arena_scope scope(ctx.scratch());
    wants_hidden = !a.d_hidden.empty() || !a.d_hidden_partial.empty();
    bool const backward = wants_hidden || !a.d_weight.empty();
    allocate(backward);
    for (index_t b = 0; b < cut.count; ++b) {
      make_logits(b);
      ctx.pool().for_range(tokens, piece_rows(cut.width()), [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) gather(b, t);
      });
    }
    if (a.sum_over_ranks.function)
      a.sum_over_ranks.function(a.sum_over_ranks.state, {maxima, std::size_t(tokens * statistics)});
    ctx.pool().for_range(tokens, piece_rows(16 * cut.leaves), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) finish_row(t);
    });
    if (!backward) return;
    allocate_sums();
    for (index_t b = 0; b < cut.count; ++b) {
      bool const again = !is_kept(b);
      if (again) make_logits(b);
      to_gradient(b, again);
      add_products(b);
    }
    finish_hidden();
  }

 private:
  void allocate(bool backward) {
    arena& scratch = ctx.scratch();
    std::size_t const block_bytes = std::size_t(tokens * cut.width()) * sizeof(float);
    index_t const fit = index_t(a.workspace_bytes / std::max<std::size_t>(1, block_bytes));
    buffer_count = backward ? std::max<index_t>(1, std::min(fit, cut.count)) : 1;
    buffers = scratch.allocate<float*>(buffer_count);
    for (index_t i = 0; i < buffer_count; ++i) buffers[i] = scratch.allocate<float>(tokens * cut.width());
    state = scratch.allocate<row_statistics>(tokens);
    statistics = 2 * cut.leaves + 1;
    maxima = scratch.allocate<float>(tokens * statistics);
    sums = maxima + tokens * cut.leaves;
    target_logits = sums + tokens * cut.leaves;
    if (a.sum_over_ranks.function) std::fill(maxima, maxima + tokens * statistics, -0.0f);
  }
  /// Blocks 0 .. n-2 have their own buffer, the others share the last one; it ends up with the last block. The blocks
  /// between are made again, in the first buffer, which is free by then.
  bool is_kept(index_t b) const {
    return b < buffer_count - 1 || (b == cut.count - 1 && buffer_count > 1) || cut.count == 1;
  }
  matrix_view<float> logits(index_t b) const {
    bool const own = b < buffer_count - 1, last = b == cut.count - 1;
    float* const buffer = own ? buffers[b] : (in_backward && !last) ? buffers[0] : buffers[buffer_count - 1];
    return matrix(buffer, tokens, cut.end(b) - cut.begin(b), cut.width());
  }
  void make_logits(index_t b) {
    auto const rows = rows_of(a.weight, cut.begin(b), cut.end(b) - cut.begin(b));
    gemm(ctx, gemm_args<float, T, T>{.c = logits(b), .a = a.hidden, .b = transposed(rows)});
  }

  /// Statistics of the leaves of block b, and the logit of the target if it is there.
  void gather(index_t b, index_t t) {
    float* const row = detail::row(logits(b), t);
    index_t const begin = cut.begin(b), end = cut.end(b), target = a.targets[std::size_t(t)] - a.first_row;
    if (a.soft_cap != 0) cap_logits(row, end - begin, a.soft_cap);
    if (target >= begin && target < end) target_logits[t] = row[target - begin];
    index_t leaf = t * cut.leaves + cut.first_leaf + b * cut.leaves_in_block;
    for (index_t at = begin; at < end; at += cut.leaf, ++leaf)
      leaf_statistics(row + (at - begin), std::min(cut.leaf, end - at), maxima[leaf], sums[leaf]);
  }
  void finish_row(index_t t) {
    state[t] = combine_statistics(maxima + t * cut.leaves, sums + t * cut.leaves, cut.leaves);
    if (a.losses) a.losses[t] = a.targets[std::size_t(t)] < 0 ? 0.0f : state[t].log_sum_exp() - target_logits[t];
  }

  void to_gradient(index_t b, bool again) {
    ctx.pool().for_range(tokens, piece_rows(cut.width()), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        float* const row = detail::row(logits(b), t);
        index_t const n = cut.end(b) - cut.begin(b), target = a.targets[std::size_t(t)];
        if (target < 0) {
          std::fill(row, row + n, 0.0f);
          continue;
        }
        if (again && a.soft_cap != 0) cap_logits(row, n, a.soft_cap);
        logits_to_gradient(row, n, target - a.first_row - cut.begin(b), state[t].maximum,
                           a.gradient_scale / state[t].sum, a.gradient_scale, a.soft_cap);
      }
    });
  }

  void allocate_sums() {
    in_backward = true;
    if (!wants_hidden || cut.count == 1) return;
    for (int level = 0; level < tree_levels(cut.count); ++level)
      pending[std::size_t(level)] = ctx.scratch().allocate_matrix<float>(tokens, cols);
  }
  /// Both gradients of block b. The blocks of d_hidden are added as `tree` does, in place: gemm adds the first pair.
  void add_products(index_t b) {
    auto const d_logits = as_const(logits(b));
    index_t const first = cut.begin(b), count = cut.end(b) - first;
    if (!a.d_weight.empty())
      gemm(ctx, gemm_args<float, float, T>{.c = rows_of(a.d_weight, first, count),
                                           .a = transposed(d_logits),
                                           .b = a.hidden,
                                           .leaf = a.leaf_tokens,
                                           .accumulate = a.accumulate_weight_gradient});
    if (!wants_hidden) return;
    auto const weight = rows_of(a.weight, first, count);
    if (cut.count == 1) {
      to_d_hidden([&]<class D>(matrix_view<D> d_hidden) {
        gemm(ctx, gemm_args<D, float, T>{.c = d_hidden, .a = d_logits, .b = weight, .leaf = cut.leaf});
      });
      return;
    }
    gemm(ctx, gemm_args<float, float, T>{.c = pending[0],
                                         .a = d_logits,
                                         .b = weight,
                                         .leaf = cut.leaf,
                                         .accumulate = (b & 1) != 0});
    for (std::size_t level = 1; (b >> (level - 1)) & 1; ++level) {
      if ((b >> level) & 1) add_to(pending[level], pending[level - 1]);
      else std::swap(pending[level], pending[level - 1]);
    }
  }
  void add_to(matrix_view<float> sum, matrix_view<float> other) {
    add(ctx, add_args<float>{sum.data(), other.data(), sum.size()});
  }
  void finish_hidden() {
    if (!wants_hidden || cut.count == 1) return;
    matrix_view<float> sum{};
    for (std::size_t level = 0; cut.count >> level; ++level) {
      if (!((cut.count >> level) & 1)) continue;
      if (!sum.empty()) add_to(pending[level], sum);
      sum = pending[level];
    }
    to_d_hidden([&](auto d_hidden) {
      ctx.pool().for_range(tokens, piece_rows(cols), [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t)
          for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
            simd::store(row(d_hidden, t) + j, sum.empty() ? simd::broadcast(-0.0f) : simd::load(row(sum, t) + j, n), n);
          });
      });
    });
  }
  /// function(the output that is wanted)
  template <class Function>
  void to_d_hidden(Function&& function) {
    if (a.d_hidden_partial.empty()) function(a.d_hidden);
    else function(a.d_hidden_partial);
  }

  exec::host_context& ctx;
  linear_cross_entropy_args<T> const& a;
  index_t tokens, cols;
  vocabulary_blocks cut;
  float** buffers = nullptr;
  index_t buffer_count = 0;
  row_statistics* state = nullptr;
  float *maxima = nullptr, *sums = nullptr, *target_logits = nullptr;  ///< one array
  index_t statistics = 0;                                              ///< of it, for each token
  bool wants_hidden = false, in_backward = false;
  std::array<matrix_view<float>, 48> pending{};
};

}  // namespace detail

template <>
struct kernel_for<linear_cross_entropy_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, linear_cross_entropy_args<T> const& a) {
    index_t const t = a.hidden.extent(0), c = a.hidden.extent(1), v = a.weight.extent(0);
    index_t const vocabulary = a.vocabulary > 0 ? a.vocabulary : v;
    detail::require(detail::same_shape(a.weight, v, c) && index_t(a.targets.size()) == t && vocabulary > 0 &&
                        (a.d_hidden.empty() || detail::same_shape(a.d_hidden, t, c)) &&
                        (a.d_hidden_partial.empty() || detail::same_shape(a.d_hidden_partial, t, c)) &&
                        (a.d_weight.empty() || detail::same_shape(a.d_weight, v, c)),
                    "tenon::linear_cross_entropy: shapes differ. "
                    "Fix: hidden, d_hidden, d_hidden_partial [t,c], weight, d_weight [v,c], targets [t].");
    for (auto const target : a.targets)
      detail::require(target < vocabulary,
                      "tenon::linear_cross_entropy: a target is not in the vocabulary. "
                      "Fix: the data's tokenizer.");
    detail::vocabulary_blocks const blocks(vocabulary, a.leaf_vocabulary, a.first_row, v);
    if (t > 0) return detail::cross_entropy_driver<T>(ctx, a, blocks).run();
    if (!a.d_weight.empty() && !a.accumulate_weight_gradient)
      for (index_t r = 0; r < v; ++r) std::fill(detail::row(a.d_weight, r), detail::row(a.d_weight, r) + c, 0.0f);
  }
};

}  // namespace tenon::ops
