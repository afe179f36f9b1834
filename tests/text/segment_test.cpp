// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include <tenon/text/segment.hpp>

using namespace tenon::text::detail;

/// The definition: join the pair of the lowest rank, of equal ones the leftmost, until there is none.
template <class Rank>
static std::vector<std::uint32_t> merged_slowly(std::vector<std::uint32_t> starts, Rank&& rank) {
  for (;;) {
    std::uint32_t best = no_rank;
    std::size_t where = 0;
    for (std::size_t i = 0; i + 2 < starts.size(); ++i)
      if (std::uint32_t const r = rank(starts[i], starts[i + 1], starts[i + 2]); r < best) best = r, where = i;
    if (best == no_rank) return starts;
    starts.erase(starts.begin() + std::ptrdiff_t(where) + 1);
  }
}

TEST_CASE("segment: merges of short and long pieces are those of the definition") {
  std::mt19937 random(3);
  for (std::size_t const length : {1, 2, 3, 10, 48, 49, 50, 200, 700}) {
    std::vector<std::uint32_t> starts;
    for (std::uint32_t i = 0; i <= length; ++i) starts.push_back(i);
    std::string text;
    for (std::size_t i = 0; i < length; ++i) text += char('a' + random() % 3);
    auto const rank = [&](std::size_t begin, std::size_t middle, std::size_t end) {
      if (end - begin > 6) return no_rank;
      std::uint32_t h = std::uint32_t(end - begin) * 31 + std::uint32_t(middle - begin);
      for (std::size_t i = begin; i < end; ++i) h = h * 33 + std::uint32_t(text[i]);
      return h % 7 == 0 ? no_rank : h % 50;
    };
    auto const expected = merged_slowly(starts, rank);
    merge_pairs(starts, rank);
    CHECK(starts == expected);
  }
}
TEST_CASE("segment: the best path, letters that are no token") {
  std::string const text = "abcab";
  auto const score = [&](std::size_t begin, std::size_t end, float& value) {
    std::string const s = text.substr(begin, end - begin);
    value = s == "ab" ? -1.0f : s == "abc" ? -3.5f : s == "a" ? -1.0f : s == "b" ? -1.0f : -100.0f;
    return s == "ab" || s == "abc" || s == "a" || s == "b";
  };
  std::vector<std::uint32_t> starts = {0, 1, 2, 3, 4, 5};
  best_segmentation(starts, 3, -10.0, score);
  CHECK(starts == std::vector<std::uint32_t>{0, 3, 5});
  starts = {0, 1, 2, 3, 4, 5};
  best_segmentation(starts, 2, -10.0, score);  // "abc" is too long
  CHECK(starts == std::vector<std::uint32_t>{0, 2, 3, 5});
}
TEST_CASE("segment: scores that are added in fp32 can be equal where they are not in fp64") {
  std::string const text = "ab";
  auto const score = [&](std::size_t begin, std::size_t end, float& value) {
    std::string const s = text.substr(begin, end - begin);
    value = s == "ab" ? -1.00000012f : s == "a" ? -1.0f : -1e-7f;
    return true;
  };
  std::vector<std::uint32_t> starts = {0, 1, 2};
  best_segmentation(starts, 2, -10.0f, score);  // the sum is rounded to the score of "ab", which came first
  CHECK(starts == std::vector<std::uint32_t>{0, 2});
  starts = {0, 1, 2};
  best_segmentation(starts, 2, -10.0, score);
  CHECK(starts == std::vector<std::uint32_t>{0, 1, 2});
}
