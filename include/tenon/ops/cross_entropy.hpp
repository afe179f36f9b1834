// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The output projection and its cross-entropy as one operation, which never holds the whole logits matrix.
#include <cstddef>
#include <cstdint>
#include <span>

#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// Adds an array over the ranks that share a vocabulary, in place; not owned. Each element is -0 but on one rank, so no
/// order and no rounding is involved.
struct vocabulary_sum {
  void (*function)(void* state, std::span<float> values) = nullptr;
  void* state = nullptr;
};

/// logits = hidden weight^T, capped as soft_cap tanh(logits / soft_cap) unless soft_cap is 0;
/// losses[i] = log(sum of exp(logits[i])) - logits[i][targets[i]], in nats; 0 where the target is negative (ignored).
/// d_hidden and d_weight receive the gradients of gradient_scale * (sum of losses).
///
/// The vocabulary is cut into leaves of `leaf_vocabulary` rows (0: reduction_order::feature_leaf). Each leaf keeps the
/// maximum of its logits and the sum of exp(logit - maximum) over 16 lanes; sums are rescaled to the maximum over all
/// and combined by the tree. d_hidden is, to the bit, one gemm over the vocabulary with these leaves; d_weight one over
/// tokens with leaves of `leaf_tokens` (0: one leaf).
/// Logits are made in blocks of leaves for all tokens; as many blocks as fit into `workspace_bytes` (one at least) are
/// kept for the gradients, the others are made again. No bit depends on it. Besides, scratch takes d_hidden in fp32 a
/// few times (the logarithm of the number of blocks).
///
/// A rank may hold rows [first_row, first_row + v) of `vocabulary` only: whole leaves, or none. Targets are counted in
/// the whole vocabulary. `sum_over_ranks` is called once, between logits and gradients, with the maxima and sums of all
/// leaves and the logits of all targets, of which this rank fills in its own. Losses are then the same on every rank,
/// and d_hidden is this rank's part of a sum over ranks: with leaves [8 r / N, 8 (r + 1) / N) on rank r of N, a node of
/// the tree; -0, which changes no sum, where there are none. `d_hidden_partial` takes it unrounded.
/// @shape hidden, d_hidden, d_hidden_partial [t,c]  weight, d_weight [v,c]  targets, losses [t]; gradients may be empty
template <class T>
struct linear_cross_entropy_args {
  matrix_view<T const> hidden;
  matrix_view<T const> weight;
  std::span<std::int32_t const> targets;
  float* losses = nullptr;
  matrix_view<T> d_hidden{};
  matrix_view<float> d_hidden_partial{};  ///< instead of d_hidden
  matrix_view<float> d_weight{};
  float gradient_scale = 1.0f;
  index_t leaf_tokens = 0;
  index_t leaf_vocabulary = 0;
  index_t first_row = 0;
  index_t vocabulary = 0;  ///< of all ranks; 0: v
  vocabulary_sum sum_over_ranks{};
  float soft_cap = 0.0f;
  std::size_t workspace_bytes = std::size_t(256) << 20;
  bool accumulate_weight_gradient = false;
};

/// @error argument_error when shapes differ, a target is not in the vocabulary or rows are not whole leaves
/// @source Wijmans et al. 2024, "Cut your losses in large-vocabulary language models", arXiv:2411.09009 (the idea)
/// @test tests/ops/cross_entropy_test.cpp
inline constexpr struct linear_cross_entropy_t : operation<linear_cross_entropy_t> {
  static constexpr char const* name = "linear_cross_entropy";
  template <class T>
  static profile::work work(linear_cross_entropy_args<T> const& a) {
    double const t = double(a.hidden.extent(0)), c = double(a.hidden.extent(1)), v = double(a.weight.extent(0));
    double const products = 1.0 + (!a.d_hidden.empty() || !a.d_hidden_partial.empty()) + !a.d_weight.empty();
    return {2 * t * c * v * products, (t + v) * c * sizeof(T) * products + double(a.d_weight.size()) * sizeof(float)};
  }
} linear_cross_entropy{};

}  // namespace tenon::ops
