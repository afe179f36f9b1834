// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include <tenon/core/reduction_order.hpp>

namespace tenon::models::detail {

/// What is wrong with the shape of a decoder, as one sentence, or null: one list for compile time and run time.
constexpr char const* shape_problem(index_t layers, index_t width, index_t heads, index_t kv_heads, index_t context,
                                    index_t vocabulary) {
  if (layers < 1) return "tenon::models: layers is below 1. Fix: at least one layer.";
  if (width < 1) return "tenon::models: width is below 1. Fix: a positive number of features.";
  if (heads < 1) return "tenon::models: heads is below 1. Fix: at least one head.";
  if (width % heads != 0)
    return "tenon::models: width is not a multiple of heads; every head has the same width. Fix: width = heads x head "
           "width.";
  if (kv_heads < 1 || heads % kv_heads != 0)
    return "tenon::models: heads is not a multiple of kv_heads; each KV head serves the same number of heads. "
           "Fix: a kv_heads that divides heads.";
  if (context < 1) return "tenon::models: context is below 1. Fix: the longest sequence the model reads, in tokens.";
  if (vocabulary < 2) return "tenon::models: vocabulary is below 2. Fix: the number of tokens, 256 for bytes.";
  return nullptr;
}

/// Standard deviation of what is added to the residual stream, twice a layer. @source GPT-2 (see gpt2_config)
inline float residual_stddev(index_t layers) { return 0.02f / std::sqrt(2.0f * float(layers)); }

}  // namespace tenon::models::detail
