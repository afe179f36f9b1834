// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <set>

#include <tenon/core/philox.hpp>

using tenon::philox;
using tenon::random_stream;

TEST_CASE("philox: the known answers published with Random123 (philox4x32, 10 rounds)") {
  struct known {
    philox::counter_type counter;
    philox::key_type key;
    philox::counter_type answer;
  };
  constexpr known all[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (auto const& k : all) CHECK(philox::generate(k.counter, k.key) == k.answer);
  static_assert(philox::generate({0, 0, 0, 0}, {0, 0})[0] == 0x6627e8d5);
}

TEST_CASE("random_stream: a number depends on seed, name, step, sample and position alone") {
  random_stream const a(7, "dropout", 3);
  CHECK(a.word(5, 9) == random_stream(7, "dropout", 3).word(5, 9));
  for (std::uint64_t p = 0; p < 64; ++p) CHECK(a.word(5, p) == a.quad(5, p / 4)[p % 4]);
  std::set<std::uint32_t> seen;
  seen.insert(a.word(5, 9));
  seen.insert(random_stream(8, "dropout", 3).word(5, 9));
  seen.insert(random_stream(7, "dropout2", 3).word(5, 9));
  seen.insert(random_stream(7, "dropout", 4).word(5, 9));
  seen.insert(a.word(6, 9));
  seen.insert(a.word(5, 10));
  seen.insert(a.word(5 + (std::uint64_t(1) << 32), 9));
  seen.insert(a.word(5, 9 + (std::uint64_t(1) << 34)));
  CHECK(seen.size() == 8);
}

TEST_CASE("random_stream: uniform numbers lie in [0, 1) with the right moments and no correlation along positions") {
  random_stream const s(1, "init");
  constexpr int n = 1 << 16;
  double sum = 0, squares = 0, neighbours = 0;
  float before = 0.5f;
  std::array<int, 16> buckets{};
  for (int i = 0; i < n; ++i) {
    float const u = s.uniform(0, std::uint64_t(i));
    REQUIRE(u >= 0.0f);
    REQUIRE(u < 1.0f);
    sum += double(u), squares += double(u) * double(u);
    neighbours += (double(u) - 0.5) * (double(before) - 0.5);
    ++buckets[std::size_t(u * 16)];
    before = u;
  }
  CHECK(std::fabs(sum / n - 0.5) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::fabs(squares / n - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
  CHECK(std::fabs(neighbours / n) < 5 * (1.0 / 12) / std::sqrt(n));
  double chi_squared = 0;
  for (int b : buckets) chi_squared += (b - n / 16.0) * (b - n / 16.0) / (n / 16.0);
  CHECK(chi_squared < 50);  // 15 degrees of freedom: p < 1e-5
}
