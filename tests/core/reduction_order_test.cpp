// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <tenon/core/reduction_order.hpp>

using namespace tenon;

namespace {

auto const add = [](auto& a, auto const& b) { a = a + b; };

/// The tree as its definition says it: the left part is the largest power of two below the number of leaves.
template <class T>
T recursive_tree(std::vector<T> const& leaf, std::size_t first, std::size_t count) {
  if (count == 0) return T{};
  if (count == 1) return leaf[first];
  std::size_t const left = std::bit_floor(count - 1);
  return recursive_tree(leaf, first, left) + recursive_tree(leaf, first + left, count - left);
}

std::vector<float> random_leaves(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> leaf(n);
  for (auto& x : leaf) x = normal(random) * std::ldexp(1.0f, int(random() % 20) - 10);
  return leaf;
}

/// An exact sum of doubles in another way: nonoverlapping partial sums, then one rounding (Shewchuk 1997).
double sum_of_partials(std::vector<double> const& values) {
  std::vector<double> partials;
  for (double x : values) {
    std::size_t kept = 0;
    for (double y : partials) {
      if (std::fabs(x) < std::fabs(y)) std::swap(x, y);
      double const high = x + y, low = y - (high - x);
      if (low != 0) partials[kept++] = low;
      x = high;
    }
    partials.resize(kept);
    partials.push_back(x);
  }
  if (partials.empty()) return 0;
  double high = partials.back(), low = 0;
  std::size_t n = partials.size() - 1;
  while (n > 0) {
    double const x = high, y = partials[--n];
    high = x + y;
    low = y - (high - x);
    if (low != 0) break;
  }
  if (n > 0 && ((low < 0 && partials[n - 1] < 0) || (low > 0 && partials[n - 1] > 0))) {
    double const y = low * 2, x = high + y;
    if (y == x - high) high = x;
  }
  return high;
}

double exact(std::vector<double> const& values) {
  exact_sum s;
  for (double v : values) s.add(v);
  return s.value();
}

}  // namespace

TEST_CASE("tree: equals its recursive definition for every number of leaves") {
  auto const leaf = random_leaves(300, 1);
  int wrong = 0;
  for (std::size_t n = 0; n <= leaf.size(); ++n) {
    tree<float> t;
    for (std::size_t i = 0; i < n; ++i) t.push(leaf[i], add);
    CHECK(t.size() == n);
    wrong += std::bit_cast<std::uint32_t>(t.finish(add)) != std::bit_cast<std::uint32_t>(recursive_tree(leaf, 0, n));
    CHECK(t.size() == 0);
  }
  CHECK(wrong == 0);
}

TEST_CASE("tree: keeps the sides of each node, and can be used again") {
  struct text {
    std::string s;
  };
  auto join = [](text& a, text const& b) { a.s = "(" + a.s + b.s + ")"; };
  tree<text, 8> t;
  for (int again = 0; again < 2; ++again) {
    for (char c = 'a'; c < 'h'; ++c) t.push({std::string(1, c)}, join);
    CHECK(t.finish(join).s == "(((ab)(cd))((ef)g))");
  }
  CHECK(t.finish(join).s.empty());
}

TEST_CASE("tree: any split into ranges gives nodes that combine to the same bits") {
  // A rank that holds leaves [begin, end) reduces each maximal aligned power-of-two node in it; the nodes of all ranks,
  // taken together, build the same tree.
  std::mt19937 random(2);
  for (int trial = 0; trial < 300; ++trial) {
    std::size_t const n = 1 + random() % 200;
    auto const leaf = random_leaves(n, unsigned(trial));
    struct node {
      std::size_t first, count;
      float value;
    };
    std::vector<node> stack;
    std::vector<std::size_t> cuts{0, n};
    for (unsigned c = random() % 8; c > 0; --c) cuts.push_back(random() % (n + 1));
    std::sort(cuts.begin(), cuts.end());
    for (std::size_t r = 0; r + 1 < cuts.size(); ++r) {
      for (std::size_t begin = cuts[r], end = cuts[r + 1]; begin < end;) {
        std::size_t size = begin ? begin & (~begin + 1) : std::bit_floor(n);
        while (begin + size > end) size /= 2;
        tree<float> local;
        for (std::size_t i = 0; i < size; ++i) local.push(leaf[begin + i], add);
        stack.push_back({begin, size, local.finish(add)});
        begin += size;
        // Two siblings meet as soon as both are there.
        while (stack.size() >= 2) {
          node const right = stack.back(), left = stack[stack.size() - 2];
          if (left.count != right.count || left.first % (2 * left.count) != 0) break;
          stack.pop_back();
          stack.back() = {left.first, 2 * left.count, left.value + right.value};
        }
      }
    }
    float total = stack.back().value;
    for (std::size_t i = stack.size() - 1; i-- > 0;) total = stack[i].value + total;
    CHECK(total == recursive_tree(leaf, 0, n));
  }
}

TEST_CASE("tree: a micro-batch of a power of two samples is a node, so accumulation is a binary counter") {
  auto const leaf = random_leaves(96, 3);
  for (std::size_t micro : {1u, 2u, 4u, 8u, 32u}) {
    tree<float> accumulated;
    for (std::size_t i = 0; i < leaf.size(); i += micro) {
      tree<float> step;
      for (std::size_t k = 0; k < micro; ++k) step.push(leaf[i + k], add);
      accumulated.push(step.finish(add), add);
    }
    CHECK(accumulated.finish(add) == recursive_tree(leaf, 0, leaf.size()));
  }
}

TEST_CASE("reduction_order: leaves cover the extent and depend on it alone; sequences are nodes of a tree") {
  for (index_t extent = 1; extent < 5000; extent += extent < 400 ? 1 : 37) {
    index_t const f = reduction_order::feature_leaf(extent), t = reduction_order::token_leaf(extent);
    CHECK(f % lanes == 0);
    CHECK(extent % t == 0);
    CHECK(std::has_single_bit(std::uint64_t(extent / t)));
    CHECK(f >= lanes);
    CHECK(ceil_div(extent, f) <= reduction_order::feature_leaves);
    CHECK(extent / t <= reduction_order::sequence_leaves);
  }
  CHECK(reduction_order::feature_leaf(768) == 96);
  CHECK(reduction_order::token_leaf(1024) == 128);
  CHECK(tree_levels(0) == 0);
  CHECK(tree_levels(1) == 1);
  CHECK(tree_levels(8) == 4);
  CHECK(round_up(17, 16) == 32);
}

TEST_CASE("exact_sum: equals an exact sum in 128-bit integers") {
  std::mt19937_64 random(4);
  for (int trial = 0; trial < 200; ++trial) {
    __int128 want = 0;
    exact_sum s;
    for (int i = 0; i < 100; ++i) {
      auto const v = std::int64_t(random()) >> (random() % 50 + 11);  // at most 53 bits: exact in a double
      int const shift = int(random() % 40);
      want += __int128(v) << shift;
      s.add(std::ldexp(double(v), shift - 30));
    }
    // Rounds a 128-bit integer to the nearest double, ties to even, by hand.
    bool const negative = want < 0;
    auto magnitude = static_cast<unsigned __int128>(want);
    if (negative) magnitude = -magnitude;
    int drop = 0;
    while (magnitude >> drop >= (static_cast<unsigned __int128>(1) << 53)) ++drop;
    auto head = std::uint64_t(magnitude >> drop);
    if (drop) {
      unsigned __int128 const rest = magnitude - (static_cast<unsigned __int128>(head) << drop);
      unsigned __int128 const half = static_cast<unsigned __int128>(1) << (drop - 1);
      if (rest > half || (rest == half && (head & 1))) ++head;
    }
    double const rounded = std::ldexp(double(head), drop - 30);
    CHECK(s.value() == (negative ? -rounded : rounded));
  }
}

TEST_CASE("exact_sum: equals another exact summation over wide exponents, in every order and grouping") {
  std::mt19937_64 random(5);
  for (int trial = 0; trial < 150; ++trial) {
    int const width = trial % 3 == 0 ? 2000 : trial % 3 == 1 ? 200 : 30, centre = trial % 2 ? 0 : -1000;
    std::vector<double> values;
    std::size_t const n = 1 + random() % 200;
    for (std::size_t i = 0; i < n; ++i) {
      double const mantissa = double(std::int64_t(random())) * 0x1p-63;
      int const exponent = std::clamp(centre + int(random() % unsigned(width)) - width / 2, -1100, 1000);
      values.push_back(std::ldexp(mantissa, exponent));
      if (random() % 3 == 0) values.push_back(-values[random() % values.size()]);
    }
    double const want = sum_of_partials(values);
    CHECK(exact(values) == want);
    std::shuffle(values.begin(), values.end(), random);
    exact_sum parts[3];
    for (std::size_t i = 0; i < values.size(); ++i) parts[random() % 3].add(values[i]);
    exact_sum digit_wise = parts[0];
    auto& words = digit_wise.words();
    for (int p = 1; p < 3; ++p)
      for (std::size_t i = 0; i < words.size(); ++i) words[i] += parts[p].words()[i];
    CHECK(digit_wise.value() == want);
    parts[2].add(parts[0]);
    parts[2].add(parts[1]);
    CHECK(parts[2].value() == want);
  }
}

TEST_CASE("exact_sum: cancellation, both ends of the range, and ties") {
  double const largest = std::numeric_limits<double>::max(), least = std::numeric_limits<double>::denorm_min();
  CHECK(exact({}) == 0);
  CHECK_FALSE(std::signbit(exact({-0.0, -0.0})));
  CHECK_FALSE(std::signbit(exact({1.5, -1.5})));
  CHECK(exact({1e308, 1.0, -1e308}) == 1.0);
  CHECK(exact({1e308, least, -1e308}) == least);
  CHECK(exact({largest, largest, -largest}) == largest);
  CHECK(exact({largest, largest}) == HUGE_VAL);
  CHECK(exact({-largest, -largest}) == -HUGE_VAL);
  CHECK(exact({largest, 0x1p969}) == largest);
  CHECK(exact({largest, 0x1p970}) == HUGE_VAL);  // half a last place: ties go away from the odd mantissa
  CHECK(exact({largest, 0x1p970, -least}) == largest);
  CHECK(exact({least, least, least}) == 3 * least);
  CHECK(exact({-least, -0x1p-1022, 0x1p-1022}) == -least);
  CHECK(exact({0x1p-1022, -least}) == 0x1p-1022 - least);
  CHECK(exact({1.0, 0x1p-53}) == 1.0);
  CHECK(exact({1.0, 0x1p-53, least}) == 1.0 + 0x1p-52);
  CHECK(exact({1.0, 0x1p-53, -least}) == 1.0);
  CHECK(exact({1.0 + 0x1p-52, 0x1p-53}) == 1.0 + 0x1p-51);
  CHECK(exact({-1.0, -0x1p-53, -least}) == -1.0 - 0x1p-52);
  // Every position of the leading bit relative to the 32-bit digits.
  for (int e = -990; e < 900; ++e) {
    double const one = std::ldexp(1.0, e);
    CHECK(exact({one, one * 0x1p-53}) == one);
    CHECK(exact({one, one * 0x1p-53, one * 0x1p-70}) == one + one * 0x1p-52);
    CHECK(exact({-one, one * 0x1p-54}) == -one);
    CHECK(exact({-one, one * 0x1p-54, one * 0x1p-80}) == -one + one * 0x1p-53);
  }
}

TEST_CASE("exact_sum: NaN and infinities poison the sum, on every path between ranks") {
  double const inf = HUGE_VAL, nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(exact({1.0, inf}) == inf);
  CHECK(exact({-inf, 1e308}) == -inf);
  CHECK(std::isnan(exact({inf, -inf})));
  CHECK(std::isnan(exact({1.0, nan, 2.0})));
  CHECK(std::isnan(exact({-nan})));
  exact_sum a, b, c;
  a.add(1.0), b.add(inf), c.add(-inf);
  exact_sum ab = a;
  ab.add(b);
  CHECK(ab.value() == inf);
  for (std::size_t i = 0; i < ab.words().size(); ++i) ab.words()[i] += c.words()[i];
  CHECK(std::isnan(ab.value()));
}

TEST_CASE("exact_sum: carries hold over millions of values") {
  exact_sum s;
  constexpr int n = 3'000'000;
  for (int i = 0; i < n; ++i) s.add(0x1.fffffffffffffp+10);
  CHECK(s.value() == double(n) * 0x1.fffffffffffffp+10);
  for (int i = 0; i < n; ++i) s.add(-0x1.fffffffffffffp+10);
  CHECK(s.value() == 0);
}
