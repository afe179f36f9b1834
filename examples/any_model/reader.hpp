// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A model that reads a text in chunks, none of which sees another.
#include <algorithm>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <tenon/io/mapped_file.hpp>

#include "engine.hpp"

namespace tenon {

/// The text of a file in chunks of `context` tokens, each with what the tokenizer puts before a text.
/// @error argument_error when there is no token to predict
inline std::vector<std::vector<std::int32_t>> chunks_of(io::path const& text, text::tokenizer const& words,
                                                        index_t context) {
  io::mapped_file const content(text);
  auto const* const letters = reinterpret_cast<char const*>(content.bytes().data());
  auto const tokens = words.encode({letters, content.size()}, {.add_special = false, .parse_special = false});
  auto const& before = words.parts().before;
  index_t const fresh = context - index_t(before.size()), all = index_t(tokens.size());
  if (fresh < 2)
    throw argument_error("a context of " + std::to_string(context) + " leaves no token to predict. Fix: a larger one.");
  std::vector<std::vector<std::int32_t>> chunks;
  for (index_t first = 0; first < all; first += fresh) {
    chunks.push_back(before);
    chunks.back().insert(chunks.back().end(), tokens.begin() + first, tokens.begin() + std::min(all, first + fresh));
  }
  // With nothing before it, the first token of a chunk is not predicted.
  if (!chunks.empty() && chunks.back().size() < 2) chunks.pop_back();
  if (chunks.empty())
    throw argument_error(text.string() + " has " + std::to_string(all) +
                         " tokens, of which none can be predicted. Fix: a longer text.");
  return chunks;
}

class reader {
 public:
  /// @param longest tokens of a chunk, at most
  reader(exec::host_context& exec, infer::model_file const& file, nn::weight_source& weights, index_t longest) {
    engine_options settings{.longest = longest, .cache_tokens = longest, .token_budget = longest, .max_sequences = 1};
    bound =
        infer::bind_model<models::any, any_engine::arithmetic, any_engine::kv_policy>(exec, file, weights, settings);
    index_t most = 0;
    for (auto const& g : bound.scheduling.groups) most = std::max(most, g.pages);
    pages.groups.assign(bound.scheduling.groups.size(), std::vector<infer::page_id>(std::size_t(most)));
    for (auto& group : pages.groups) std::iota(group.begin(), group.end(), 0);
    batch.reserve(pages.groups.size(), longest, 1);
  }
  index_t vocabulary() const { return bound.network->vocabulary(); }

  /// Reads the tokens [begin, begin + count) of a chunk, whose earlier ones it read before.
  /// @shape logits [count, vocabulary], or empty: they are not computed
  void read(std::span<std::int32_t const> chunk, index_t begin, index_t count, matrix_view<float> logits) {
    batch.clear();
    batch.add(chunk.subspan(std::size_t(begin), std::size_t(count)), begin, logits.empty() ? 0 : count, pages);
    bound.network->run(batch, logits);
  }

 private:
  infer::bound_model bound;
  infer::step_batch batch;
  infer::sequence_pages pages;
};

}  // namespace tenon
