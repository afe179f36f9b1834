// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The log-sum-exp of a row of logits, in leaves: what the loss and the sampler's log-probabilities share, so that
/// they are the same bits.
#include <limits>

#include <tenon/exec/host/math.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops::detail {

/// The maximum of one leaf of one row of logits and the sum of exp(logit - maximum).
inline void leaf_statistics(float const* logits, index_t n, float& maximum, float& sum) {
  using namespace simd;
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  f32x16 largest = broadcast(lowest), total = zeros();
  for_lanes(0, n, [&](index_t j, int k) TENON_INLINE_LAMBDA { largest = max(largest, load(logits + j, k, lowest)); });
  maximum = reduce_max(largest);
  f32x16 const shift = broadcast(maximum);
  // exp(-inf) = +0: lanes past the end add nothing.
  for_lanes(0, n, [&](index_t j, int k) TENON_INLINE_LAMBDA {
    total = total + simd::exp(load(logits + j, k, lowest) - shift);
  });
  sum = reduce_add(total);
}

/// sum of sums[l] exp(maxima[l] - maximum) by the tree; `sums` is overwritten.
inline float rescaled_sum(float const* maxima, float* sums, index_t leaves, float maximum) {
  using namespace simd;
  for_lanes(0, leaves, [&](index_t l, int k) TENON_INLINE_LAMBDA {
    store(sums + l, load(sums + l, k) * simd::exp(load(maxima + l, k) - broadcast(maximum)), k);
  });
  auto const add = [](float& a, float b) { a = a + b; };
  tree<float> total;
  for (index_t l = 0; l < leaves; ++l) total.push(sums[l], add);
  return total.finish(add);
}

/// The maximum of a row and the sum of exp(logit - maximum).
struct row_statistics {
  float maximum, sum;
  float log_sum_exp() const { return maximum + simd::log(sum); }
};
/// Of all leaves; `sums` is overwritten.
inline row_statistics combine_statistics(float const* maxima, float* sums, index_t leaves) {
  float maximum = maxima[0];
  for (index_t l = 1; l < leaves; ++l) maximum = maximum < maxima[l] ? maxima[l] : maximum;
  return {maximum, rescaled_sum(maxima, sums, leaves, maximum)};
}

}  // namespace tenon::ops::detail
