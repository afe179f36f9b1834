// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <concepts>

#include <tenon/core/element.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/core/view.hpp>
#include <tenon/policy/axis.hpp>

namespace tenon {
namespace kv {

/// An element type of caches: int8 with one fp32 scale for the key, and one for the value, of each token and head.
struct q8 {};
/// What the cached keys and values may be. They are rounded once, when they are written.
template <class E>
concept CacheElement = std::same_as<E, float> || std::same_as<E, bf16> || std::same_as<E, fp16> || std::same_as<E, q8>;

/// Keys and values in pages of BlockTokens, a multiple of 16; `dynamic`: a page is as long as the longest sequence.
/// Neither changes a result. @source Kwon et al. 2023, arXiv:2309.06180
template <index_t BlockTokens, CacheElement Element = float>
  requires(BlockTokens == dynamic || (BlockTokens > 0 && BlockTokens % lanes == 0))
struct paged {
  using axis = kv_axis;
  using element_type = Element;
  static constexpr index_t page_tokens(index_t longest_sequence) {
    return BlockTokens == dynamic ? round_up(longest_sequence, lanes) : BlockTokens;
  }
};
/// One stretch of keys and values per sequence: a single page.
using contiguous = paged<dynamic>;

}  // namespace kv
}  // namespace tenon
