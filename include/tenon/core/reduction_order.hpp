// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The arithmetic contract: in which order a sum is taken, as a function of the problem alone.
///
/// Three rules cover every sum in tenon (docs/decisions/0001-arithmetic-contract.md):
///  1. *Within a leaf*: one chain of fused multiply-adds in index order, beginning at +0.
///  2. *Across leaves*: the fixed binary tree over the leaf index (`tree`). Leaves have a length that depends on the
///     extent alone, so that whoever holds which leaves, and however many ranks or micro-batches there are, the same
///     additions are made.
///  3. *Scalars* (loss, norm, counts): `exact_sum`, which has no order at all.
/// Sums along a row that no policy ever cuts run over 16 lanes (element i in lane i mod 16), then a fixed tree of lanes.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>

#include <tenon/core/view.hpp>

namespace tenon {

/// Lanes of a row reduction, on every instruction set.
inline constexpr int lanes = 16;

constexpr index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
constexpr index_t round_up(index_t a, index_t multiple) { return ceil_div(a, multiple) * multiple; }

/// Leaf lengths: functions of the extent alone.
struct reduction_order {
  /// Most leaves of a dimension that tensor parallelism may cut (the k of a row-parallel layer) into 1, 2, 4 or 8: rank
  /// r of n holds leaves [8 r / n, 8 (r + 1) / n), which are one node of the tree.
  static constexpr index_t feature_leaves = 8;
  /// Most leaves of one sequence: context parallelism may cut it into 1, 2, 4 or 8.
  static constexpr index_t sequence_leaves = 8;
  /// Fewest tokens of a leaf: below it the additions between leaves would be felt in a matrix product.
  static constexpr index_t least_token_leaf = 64;

  static constexpr index_t feature_leaf(index_t extent) { return round_up(ceil_div(extent, feature_leaves), lanes); }
  /// Features of attention heads: leaves of whole KV head groups, all equal; as many as the largest power of two that
  /// divides `kv_heads`, at most `feature_leaves`.
  static constexpr index_t head_leaf(index_t kv_heads, index_t group_width) {
    return kv_heads / std::gcd(kv_heads, feature_leaves) * group_width;
  }
  /// Every sequence is a whole number of leaves, a power of two: a node of the tree over samples. Long sequences have
  /// 8, short ones fewer, and one that does not divide is one leaf.
  static constexpr index_t token_leaf(index_t sequence_length) {
    for (index_t count = sequence_leaves; count > 1; count /= 2)
      if (sequence_length % (count * lanes) == 0 && sequence_length / count >= least_token_leaf)
        return sequence_length / count;
    return sequence_length;
  }
};

/// Combines leaves, handed over in index order, as the fixed binary tree over the leaf index. Works like a binary
/// counter: at most one pending node per level. `Combine(Node& left_and_result, Node const& right)` adds two nodes.
///
///     tree<float> sum;
///     for (auto leaf : leaves) sum.push(leaf, [](float& a, float b) { a += b; });
///     float const total = sum.finish(add);
template <class Node, int MaxLevels = 48>
class tree {
 public:
  template <class Combine>
  void push(Node node, Combine&& combine) {
    int level = 0;
    for (std::uint64_t q = count; q & 1u; q >>= 1, ++level) {
      combine(pending[std::size_t(level)], node);
      node = pending[std::size_t(level)];
    }
    pending[std::size_t(level)] = node;
    ++count;
  }
  /// The root; leaves that make no full pair are combined from the right. Value-initialised when nothing was pushed.
  template <class Combine>
  Node finish(Combine&& combine) {
    Node result{};
    bool first = true;
    for (int level = 0; count >> level; ++level) {
      if (!((count >> level) & 1u)) continue;
      if (first) result = pending[std::size_t(level)], first = false;
      else {
        combine(pending[std::size_t(level)], result);
        result = pending[std::size_t(level)];
      }
    }
    count = 0;
    return result;
  }
  std::uint64_t size() const { return count; }

 private:
  std::array<Node, std::size_t(MaxLevels)> pending{};
  std::uint64_t count = 0;
};

/// How many nodes may be pending at once while `leaves` leaves are pushed into a `tree`.
constexpr int tree_levels(index_t leaves) { return leaves <= 0 ? 0 : int(std::bit_width(std::uint64_t(leaves))); }

/// A sum of doubles that is exact and therefore has no order: the same value for every order, grouping and number of
/// ranks. A superaccumulator of 32-bit digits in 64-bit words; two of them add digit by digit (so ranks can all-reduce
/// `words()` as integers).
/// @source Kulisch 2013, "Computer Arithmetic and Validity", long accumulator
class exact_sum {
 public:
  /// 2^-1074 .. 2^1024 in 32-bit digits and room to carry, then how many NaN, +inf and -inf were added.
  static constexpr int words_count = 73;
  /// Infinities and NaNs are counted and poison the result.
  void add(double value) {
    std::uint64_t const bits = std::bit_cast<std::uint64_t>(value);
    int exponent = int((bits >> 52) & 0x7ffu);
    std::uint64_t mantissa = bits & ((std::uint64_t(1) << 52) - 1);
    if (exponent == 0x7ff) {
      ++digits[std::size_t(mantissa ? nan_count : (bits >> 63) ? minus_infinity_count : plus_infinity_count)];
      return;
    }
    if (exponent) mantissa |= std::uint64_t(1) << 52;
    else exponent = 1;
    int const shift = exponent - 1;  // mantissa * 2^(shift - 1074)
    int const word = shift / 32, offset = shift % 32;
    std::uint64_t const low = (mantissa & 0xffffffffu) << offset, high = (mantissa >> 32) << offset;
    std::int64_t const sign = (bits >> 63) ? -1 : 1;
    digits[std::size_t(word)] += sign * std::int64_t(low & 0xffffffffu);
    digits[std::size_t(word) + 1] += sign * std::int64_t((low >> 32) + (high & 0xffffffffu));
    digits[std::size_t(word) + 2] += sign * std::int64_t(high >> 32);
    if (++pending >= (1u << 29)) carry();
  }
  void add(exact_sum const& other) {
    exact_sum o = other;
    o.carry();
    carry();
    for (std::size_t i = 0; i < digits.size(); ++i) digits[i] += o.digits[i];
    carry();
  }
  /// The exact sum rounded once, to nearest even; +0 when it is zero.
  double value() const {
    bool const plus = digits[plus_infinity_count] != 0, minus = digits[minus_infinity_count] != 0;
    if (digits[nan_count] != 0 || (plus && minus)) return std::numeric_limits<double>::quiet_NaN();
    if (plus || minus) return plus ? HUGE_VAL : -HUGE_VAL;
    exact_sum t = *this;
    t.carry();
    bool const negative = t.digits[finite_words - 1] < 0;
    if (negative) {
      for (std::size_t i = 0; i < finite_words; ++i) t.digits[i] = -t.digits[i];
      t.carry();
    }
    int top = int(finite_words) - 1;
    while (top > 0 && t.digits[std::size_t(top)] == 0) --top;
    // The two leading digits hold 33..64 bits; the third fills the window of 64, and anything below sets its last bit.
    int const low = top >= 2 ? top - 2 : 0;
    double result = 0;
    if (top >= 1) {
      std::uint64_t const head =
          (std::uint64_t(t.digits[std::size_t(top)]) << 32) | std::uint64_t(t.digits[std::size_t(top) - 1]);
      std::uint64_t rest = top >= 2 ? std::uint64_t(t.digits[std::size_t(low)]) : 0;
      for (int i = 0; i < low; ++i) rest |= t.digits[std::size_t(i)] != 0 ? 1u : 0u;
      int const lead = std::countl_zero(head);
      std::uint64_t window = lead ? (head << lead) | (rest >> (32 - lead)) : head;
      if (rest & ((std::uint64_t(1) << (32 - lead)) - 1)) window |= 1u;
      result = std::ldexp(double(window), 32 * (top - 1) - lead - 1074);
    } else {
      result = std::ldexp(double(t.digits[0]), -1074);
    }
    return negative ? -result : result;
  }
  /// The digits, for an integer all-reduce in place between ranks (a sum over at most 2^30 of them).
  std::array<std::int64_t, words_count>& words() {
    carry();
    return digits;
  }

 private:
  static constexpr std::size_t finite_words = 70, nan_count = 70, plus_infinity_count = 71, minus_infinity_count = 72;
  void carry() {
    for (std::size_t i = 0; i + 1 < finite_words; ++i) {
      std::int64_t const c = digits[i] >> 32;  // floor division: the digit left is in [0, 2^32)
      digits[i] -= c * (std::int64_t(1) << 32);
      digits[i + 1] += c;
    }
    pending = 0;
  }
  std::array<std::int64_t, words_count> digits{};
  std::uint32_t pending = 0;
};

}  // namespace tenon
