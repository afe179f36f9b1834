// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Speculation: tokens that may come next are run at once, and those that hold are kept.
///
/// Which token is drawn is a function of the logits, the request's seed and the position (ops/sample.hpp). So a draft
/// holds when it is the token that is drawn in its place, and the text is the same to the bit with and without drafts,
/// whatever made them, also when sampling.
#include <algorithm>
#include <cstdint>
#include <span>

#include <tenon/core/view.hpp>

namespace tenon::infer {

/// Fills `drafts` with what came after the last tokens when they came before: the most recent place where the longest
/// end of the text, `longest` tokens at most, is found again. The text is thought to go on repeating itself from there.
/// Returns how many drafts there are: all or, when nothing of `shortest` tokens is found, none.
/// @source Saxena 2023, "Prompt lookup decoding"   @test tests/infer/speculation_test.cpp
inline index_t ngram_draft(std::span<std::int32_t const> text, std::span<std::int32_t> drafts, index_t shortest = 2,
                           index_t longest = 4) {
  index_t const size = index_t(text.size());
  index_t found = 0, next = 0;
  for (index_t end = size - 1; end > 0 && found < longest; --end) {
    index_t equal = 0;
    while (equal < std::min(longest, end) && text[std::size_t(end - 1 - equal)] == text[std::size_t(size - 1 - equal)])
      ++equal;
    if (equal > found) found = equal, next = end;
  }
  if (found < shortest) return 0;
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    auto const at = std::size_t(next) + i;
    drafts[i] = at < text.size() ? text[at] : drafts[at - text.size()];
  }
  return index_t(drafts.size());
}

}  // namespace tenon::infer
