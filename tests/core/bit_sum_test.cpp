// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdint>
#include <set>
#include <vector>

#include <tenon/core/bit_sum.hpp>

using namespace tenon;

TEST_CASE_TEMPLATE("bit_sum: parts of any cut add up, and every single bit counts", Word, std::uint16_t,
                   std::uint32_t) {
  std::vector<Word> values;
  for (std::size_t i = 0; i < 700; ++i) values.push_back(Word(i % 3 == 0 ? 0 : i * 0x9e3779b97f4a7c15u));
  auto const n = index_t(values.size());
  auto const whole = bit_sum(values.data(), sizeof(Word), n);
  for (index_t cut : {1, 255, 256, 257, 300, 699})
    CHECK(bit_sum(values.data(), sizeof(Word), cut) + bit_sum(values.data() + cut, sizeof(Word), n - cut, cut) ==
          whole);
  std::set<std::uint64_t> sums{whole};
  for (auto& v : values)
    for (std::size_t bit = 0; bit < 8 * sizeof(Word); ++bit) {
      v = Word(v ^ (Word(1) << bit));
      sums.insert(bit_sum(values.data(), sizeof(Word), n));
      v = Word(v ^ (Word(1) << bit));
    }
  CHECK(sums.size() == 1 + values.size() * 8 * sizeof(Word));
  std::swap(values[1], values[257]);  // the same place of two blocks
  CHECK(sums.count(bit_sum(values.data(), sizeof(Word), n)) == 0);
}
