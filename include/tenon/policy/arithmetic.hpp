// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/core/reduction_order.hpp>
#include <tenon/policy/axis.hpp>

namespace tenon {

/// How sums that a mesh may cut are ordered: the leaf lengths that blocks hand to the operations.
template <class P>
concept Arithmetic = PolicyOn<P, arithmetic_axis> && requires(index_t n) {
  { P::feature_leaf(n) } -> std::same_as<index_t>;
  { P::token_leaf(n) } -> std::same_as<index_t>;
  { P::head_leaf(n, n) } -> std::same_as<index_t>;
};

namespace arithmetic {
/// The written order of core/reduction_order.hpp: the same bits on every mesh. The default.
struct bitwise {
  using axis = arithmetic_axis;
  static constexpr char const* name = "bitwise";
  static constexpr index_t feature_leaf(index_t extent) { return reduction_order::feature_leaf(extent); }
  static constexpr index_t token_leaf(index_t sequence) { return reduction_order::token_leaf(sequence); }
  /// @param group_width features of one KV head group, the smallest unit that tensor parallelism moves
  static constexpr index_t head_leaf(index_t kv_heads, index_t group_width) {
    return reduction_order::head_leaf(kv_heads, group_width);
  }
};
/// Every sum is one chain: a few percent faster, the same bits on one rank only.
struct fast {
  using axis = arithmetic_axis;
  static constexpr char const* name = "fast";
  static constexpr index_t feature_leaf(index_t) { return 0; }
  static constexpr index_t token_leaf(index_t) { return 0; }
  static constexpr index_t head_leaf(index_t, index_t) { return 0; }
};
static_assert(Arithmetic<bitwise> && Arithmetic<fast>);
}  // namespace arithmetic
}  // namespace tenon
