// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The output projection and its cross-entropy as one operation, which never holds the whole logits matrix.
#include <cstddef>
#include <cstdint>
#include <span>

#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

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
/// @shape hidden, d_hidden [t,c]  weight, d_weight [v,c]  targets, losses [t]; d_hidden, d_weight may be empty
template <class T>
struct linear_cross_entropy_args {
  matrix_view<T const> hidden;
  matrix_view<T const> weight;
  std::span<std::int32_t const> targets;
  float* losses = nullptr;
  matrix_view<T> d_hidden{};
  matrix_view<float> d_weight{};
  float gradient_scale = 1.0f;
  index_t leaf_tokens = 0;
  index_t leaf_vocabulary = 0;
  float soft_cap = 0.0f;
  std::size_t workspace_bytes = std::size_t(256) << 20;
  bool accumulate_weight_gradient = false;
};

/// @error argument_error when shapes differ or a target is not in the vocabulary
/// @source Wijmans et al. 2024, "Cut your losses in large-vocabulary language models", arXiv:2411.09009 (the idea)
/// @test tests/ops/cross_entropy_test.cpp
inline constexpr struct linear_cross_entropy_t : operation<linear_cross_entropy_t> {
  static constexpr char const* name = "linear_cross_entropy";
  template <class T>
  static profile::work work(linear_cross_entropy_args<T> const& a) {
    double const t = double(a.hidden.extent(0)), c = double(a.hidden.extent(1)), v = double(a.weight.extent(0));
    double const products = 1.0 + !a.d_hidden.empty() + !a.d_weight.empty();
    return {2 * t * c * v * products, (t + v) * c * sizeof(T) * products + double(a.d_weight.size()) * sizeof(float)};
  }
} linear_cross_entropy{};

}  // namespace tenon::ops
