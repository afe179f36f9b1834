// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <tenon/core/element.hpp>
#include <tenon/exec/host/parallel.hpp>

using namespace tenon;
using exec::thread_pool;

namespace {

std::vector<float> random_floats(std::size_t n, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (auto& v : x) v = normal(random) * std::ldexp(1.0f, int(random() % 12));
  return x;
}
auto const add = [](float& a, float b) { a += b; };
float chain(std::span<float const> x) {
  float s = 0;
  for (float v : x) s += v;
  return s;
}
std::span<float const> constant(std::vector<float> const& v) { return v; }

}  // namespace

TEST_CASE("for_each: every index once") {
  for (int threads : {1, 2, 3}) {
    thread_pool pool(threads);
    for (index_t n : {-2, 0, 1, 7, 1000}) {
      std::vector<int> seen(std::size_t(std::max<index_t>(n, 0)), 0);
      exec::for_each(pool, n, [&](index_t i) { ++seen[std::size_t(i)]; });
      CHECK(seen == std::vector<int>(seen.size(), 1));
    }
  }
}

TEST_CASE("reduce: the fixed tree over leaves, whatever the number of threads") {
  for (std::size_t n : {0u, 1u, 15u, 16u, 17u, 100u, 4096u, 40'000u}) {
    auto const x = random_floats(n);
    for (index_t leaf : {1, 16, 37, 4096}) {
      tree<float> want;
      for (std::size_t i = 0; i < n; i += std::size_t(leaf))
        want.push(chain(constant(x).subspan(i, std::min(n - i, std::size_t(leaf)))), add);
      float const root = want.finish(add);
      for (int threads : {1, 2, 3, 5}) {
        thread_pool pool(threads);
        CHECK(std::bit_cast<std::uint32_t>(exec::reduce(pool, constant(x), chain, add, leaf)) ==
              std::bit_cast<std::uint32_t>(root));
      }
    }
  }
}

TEST_CASE("reduce: other nodes: a flag, a pair, a vector; and its errors") {
  thread_pool pool(3);
  auto const any = exec::reduce(
      pool, 100'000, 10, [](index_t begin, index_t end) { return begin <= 77'777 && 77'777 < end; },
      [](bool& a, bool b) { a = a || b; });
  CHECK(any);
  struct extremes {
    float least = HUGE_VALF, largest = -HUGE_VALF;
  };
  auto const x = random_floats(10'007);
  auto const found = exec::reduce(
      pool, constant(x),
      [](std::span<float const> part) {
        auto const [a, b] = std::minmax_element(part.begin(), part.end());
        return extremes{*a, *b};
      },
      [](extremes& a, extremes const& b) {
        a = {std::min(a.least, b.least), std::max(a.largest, b.largest)};
      },
      100);
  CHECK(found.least == *std::min_element(x.begin(), x.end()));
  CHECK(found.largest == *std::max_element(x.begin(), x.end()));
  auto const text = exec::reduce(
      pool, 7, 1, [](index_t i, index_t) { return std::string(1, char('a' + i)); },
      [](std::string& a, std::string const& b) { a = "(" + a + b + ")"; });
  CHECK(text == "(((ab)(cd))((ef)g))");
  auto const zero = [](index_t, index_t) { return 0; };
  CHECK_THROWS_AS(exec::reduce(pool, 5, 0, zero, [](int&, int) {}), argument_error);
  auto const thrower = [](index_t begin, index_t) -> int { return begin == 3 ? throw std::logic_error("three") : 0; };
  CHECK_THROWS_AS(exec::reduce(pool, 5, 1, thrower, [](int&, int) {}), std::logic_error);
}

TEST_CASE("scan: integers as the standard library, in place too") {
  for (int threads : {1, 2, 4}) {
    thread_pool pool(threads);
    for (std::size_t n : {0u, 1u, 2u, 15u, 16u, 17u, 1000u, 20'000u}) {
      std::vector<std::int64_t> x(n), want(n), got(n, -1);
      std::mt19937 random(unsigned(n) + 1);
      for (auto& v : x) v = std::int64_t(random() % 1000) - 500;
      std::span<std::int64_t const> const in = x;
      for (index_t block : {1, 16, 1000, 4096}) {
        std::inclusive_scan(x.begin(), x.end(), want.begin());
        exec::inclusive_scan(pool, in, std::span(got), std::plus<>{}, block);
        CHECK(got == want);
        std::exclusive_scan(x.begin(), x.end(), want.begin(), std::int64_t(7));
        auto const total = exec::exclusive_scan(pool, in, std::span(got), 7, std::plus<>{}, block);
        CHECK(got == want);
        CHECK(total == std::accumulate(x.begin(), x.end(), std::int64_t(7)));
        auto copy = x;
        exec::exclusive_scan(pool, std::span<std::int64_t const>(copy), std::span(copy), 7, std::plus<>{}, block);
        CHECK(copy == want);
        copy = x;
        std::inclusive_scan(x.begin(), x.end(), want.begin(), [](auto a, auto b) { return std::max(a, b); });
        exec::inclusive_scan(
            pool, std::span<std::int64_t const>(copy), std::span(copy), [](auto a, auto b) { return std::max(a, b); },
            block);
        CHECK(copy == want);
      }
    }
  }
}

TEST_CASE("scan: floats in the documented order, the same bits for every number of threads") {
  std::size_t const n = 10'000;
  index_t const block = 96;
  auto const x = random_floats(n);
  std::vector<float> want_inclusive(n), want_exclusive(n);
  float inclusive_before = 0, exclusive_before = 0.25f;
  for (std::size_t b = 0; b * std::size_t(block) < n; ++b) {
    float sum = 0;
    for (std::size_t i = b * std::size_t(block); i < std::min(n, (b + 1) * std::size_t(block)); ++i) {
      bool const first = i % std::size_t(block) == 0;
      want_exclusive[i] = first ? exclusive_before : exclusive_before + sum;
      sum = first ? x[i] : sum + x[i];
      want_inclusive[i] = b == 0 ? sum : inclusive_before + sum;
    }
    inclusive_before = b == 0 ? sum : inclusive_before + sum;
    exclusive_before += sum;
  }
  for (int threads : {1, 2, 3, 5}) {
    thread_pool pool(threads);
    std::vector<float> got(n, std::numeric_limits<float>::quiet_NaN());
    exec::inclusive_scan(pool, constant(x), std::span(got), std::plus<>{}, block);
    CHECK(got == want_inclusive);
    CHECK(exec::exclusive_scan(pool, constant(x), std::span(got), 0.25f, std::plus<>{}, block) == exclusive_before);
    CHECK(got == want_exclusive);
  }
  thread_pool pool(2);
  std::vector<float> shorter(n - 1);
  CHECK_THROWS_AS(exec::inclusive_scan(pool, constant(x), std::span(shorter)), argument_error);
  CHECK_THROWS_AS(exec::exclusive_scan(pool, constant(x), std::span(shorter)), argument_error);
}

TEST_CASE("sort: as std::stable_sort, with many equal keys, for every number of threads") {
  struct record {
    std::uint16_t key;
    std::uint32_t position;
    bool operator==(record const&) const = default;
  };
  auto const by_key = [](record const& a, record const& b) { return a.key < b.key; };
  for (std::size_t n : {0u, 1u, 2u, 100u, 8191u, 8192u, 8193u, 16'385u, 100'003u}) {
    for (unsigned keys : {1u, 7u, 65'536u}) {
      std::mt19937 random(unsigned(n) + keys);
      std::vector<record> x(n);
      for (std::size_t i = 0; i < n; ++i) x[i] = {std::uint16_t(random() % keys), std::uint32_t(i)};
      auto want = x;
      std::stable_sort(want.begin(), want.end(), by_key);
      for (int threads : {1, 2, 5}) {
        thread_pool pool(threads);
        auto got = x;
        exec::sort(pool, std::span(got), by_key);
        CHECK(got == want);
      }
    }
  }
}

TEST_CASE("sort: sorted, reversed and organ-pipe inputs, the default order, exceptions") {
  thread_pool pool(3);
  std::vector<int> up(50'000), got;
  std::iota(up.begin(), up.end(), -25'000);
  got = up;
  exec::sort(pool, std::span(got));
  CHECK(got == up);
  std::reverse(got.begin(), got.end());
  exec::sort(pool, std::span(got));
  CHECK(got == up);
  for (std::size_t i = 0; i < got.size(); ++i) got[i] = int(std::min(i, got.size() - i));
  auto want = got;
  std::sort(want.begin(), want.end(), std::greater<>{});
  exec::sort(pool, std::span(got), std::greater<>{});
  CHECK(got == want);
  CHECK_THROWS_AS(exec::sort(pool, std::span(got), [](int, int) -> bool { throw std::logic_error("no order"); }),
                  std::logic_error);
}

TEST_CASE_TEMPLATE("transpose: every shape, with strides on both sides", T, float, double, bf16, std::uint8_t) {
  for (int threads : {1, 3}) {
    thread_pool pool(threads);
    for (index_t rows : {0, 1, 5, 31, 32, 33, 97})
      for (index_t cols : {0, 1, 3, 32, 64, 101}) {
        index_t const in_stride = cols + 3, out_stride = rows + 2;
        std::vector<T> a(std::size_t(rows * in_stride + 1)), b(std::size_t(cols * out_stride + 1), T(float(99)));
        for (std::size_t i = 0; i < a.size(); ++i) a[i] = T(float(i % 97));
        auto const in = matrix(a.data(), rows, cols, in_stride);
        auto const out = matrix(b.data(), cols, rows, out_stride);
        exec::transpose(pool, as_const(in), out);
        bool same = true;
        for (index_t i = 0; i < rows; ++i)
          for (index_t j = 0; j < cols; ++j) same = same && out(j, i) == in(i, j);
        for (index_t j = 0; j < cols; ++j)  // what lies between the rows is left alone
          for (index_t i = rows; i < out_stride; ++i) same = same && b[std::size_t(j * out_stride + i)] == T(float(99));
        CHECK(same);
      }
    std::vector<float> x(6), y(6);
    CHECK_THROWS_AS(exec::transpose(pool, as_const(matrix(x.data(), 2, 3)), matrix(y.data(), 2, 3)), argument_error);
    // A transposed view of the output makes it a copy.
    std::iota(x.begin(), x.end(), 0.0f);
    exec::transpose(pool, as_const(matrix(x.data(), 2, 3)), transposed(matrix(y.data(), 2, 3)));
    CHECK(x == y);
  }
}
