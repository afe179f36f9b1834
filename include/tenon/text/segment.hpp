// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How one piece of text is divided into tokens: merging pairs, and the best path through a lattice.
/// @test tests/text/segment_test.cpp
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <queue>
#include <tuple>
#include <vector>

namespace tenon::text::detail {

inline constexpr std::uint32_t no_rank = std::numeric_limits<std::uint32_t>::max();

/// Joins neighbours until none may be joined: always the pair of the lowest rank, of equal ones the leftmost.
/// @param starts  where each part begins, and at last where the piece ends; shortened to what is left
/// @param rank    rank(begin, middle, end) of the two parts that lie there; no_rank: they stay apart
template <class Rank>
void merge_pairs(std::vector<std::uint32_t>& starts, Rank&& rank) {
  std::size_t const parts = starts.size() - 1;
  constexpr std::size_t few = 48;  // up to here a search from the start costs less than a queue
  if (parts <= few) {
    std::uint32_t ranks[few];
    std::size_t n = parts;
    for (std::size_t i = 0; i + 1 < n; ++i) ranks[i] = rank(starts[i], starts[i + 1], starts[i + 2]);
    while (n > 1) {
      std::size_t const i = std::size_t(std::min_element(ranks, ranks + n - 1) - ranks);
      if (ranks[i] == no_rank) break;
      std::copy(starts.begin() + std::ptrdiff_t(i) + 2, starts.begin() + std::ptrdiff_t(n) + 1,
                starts.begin() + std::ptrdiff_t(i) + 1);
      std::copy(ranks + i + 1, ranks + n - 1, ranks + i);
      --n;
      if (i + 1 < n) ranks[i] = rank(starts[i], starts[i + 1], starts[i + 2]);
      if (i > 0) ranks[i - 1] = rank(starts[i - 1], starts[i], starts[i + 1]);
    }
    starts.resize(n + 1);
    return;
  }
  struct pair {
    std::uint32_t rank, left, middle, end;  // parts by number: `middle` is the right one
    bool operator<(pair const& o) const { return std::tie(o.rank, o.left) < std::tie(rank, left); }
  };
  std::vector<std::uint32_t> next(parts + 1), previous(parts + 1);
  for (std::uint32_t i = 0; i <= parts; ++i) next[i] = i + 1, previous[i] = i - 1;
  std::priority_queue<pair> open;
  auto const offer = [&](std::uint32_t left) {
    std::uint32_t const middle = next[left];
    if (middle >= parts) return;
    std::uint32_t const end = next[middle], r = rank(starts[left], starts[middle], starts[end]);
    if (r != no_rank) open.push({r, left, middle, end});
  };
  for (std::uint32_t i = 0; i + 1 < parts; ++i) offer(i);
  constexpr std::uint32_t gone = no_rank;
  while (!open.empty()) {
    pair const p = open.top();
    open.pop();
    if (next[p.left] != p.middle || next[p.middle] != p.end) continue;  // one of the two has become part of another
    next[p.left] = p.end;
    next[p.middle] = gone;
    previous[p.end] = p.left;
    if (p.left > 0) offer(previous[p.left]);
    offer(p.left);
  }
  std::size_t n = 0;
  for (std::uint32_t i = 0; i <= parts; i = next[i]) starts[n++] = starts[i];
  starts.resize(n);
}

/// The segmentation with the greatest sum of scores; of equal ones the one whose last part is the longest.
/// @param starts  as above: the letters of the piece
/// @param score   score(begin, end, value) is false for what is no token; else it sets its score
/// @param unknown the score of a letter that is no token
/// @tparam Sum     of scores: float, which SentencePiece has, or double
template <class Sum, class Score>
void best_segmentation(std::vector<std::uint32_t>& starts, std::size_t most_bytes, Sum unknown, Score&& score) {
  std::size_t const letters = starts.size() - 1;
  struct node {
    Sum score = -std::numeric_limits<Sum>::infinity();
    std::uint32_t from = 0;
  };
  std::vector<node> best(letters + 1);
  best[0].score = 0;
  for (std::uint32_t i = 0; i < letters; ++i) {
    bool letter_is_token = false;
    auto const offer = [&](std::uint32_t end, Sum value) {
      if (best[i].score + value > best[end].score) best[end] = {best[i].score + value, i};
    };
    for (std::uint32_t end = i + 1; end <= letters && starts[end] - starts[i] <= most_bytes; ++end) {
      float value = 0;
      if (!score(starts[i], starts[end], value)) continue;
      letter_is_token |= end == i + 1;
      offer(end, Sum(value));
    }
    if (!letter_is_token) offer(i + 1, unknown);
  }
  std::vector<std::uint32_t> path{starts[letters]};
  for (std::uint32_t i = std::uint32_t(letters); i > 0; i = best[i].from) path.push_back(starts[best[i].from]);
  starts.assign(path.rbegin(), path.rend());
}

}  // namespace tenon::text::detail
