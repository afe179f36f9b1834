// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/ops/host/sample.hpp>

namespace tenon {

/// How text is drawn from a model.
struct sample_options {
  index_t tokens = 200;      ///< how many to draw
  float temperature = 0.8f;  ///< 0: always the likeliest token
  int top_k = 0;             ///< draw among the k likeliest; 0: among all
  std::uint64_t seed = 1;
};

namespace train {
/// `generate` with a model that is known by its numbers. @param next_logits as `trainer::next_logits`
inline std::vector<std::int32_t> generate(
    index_t context, index_t vocabulary,
    std::function<void(std::span<std::int32_t const>, std::span<float>)> const& next_logits,
    std::span<std::int32_t const> prompt, sample_options const& options) {
  if (prompt.empty()) throw argument_error("tenon::generate: the prompt is empty. Fix: at least one token.");
  std::vector<std::int32_t> all(prompt.begin(), prompt.end());
  std::vector<float> logits(static_cast<std::size_t>(vocabulary));
  exec::host_context one_thread(1);
  ops::sampling_options const how{.temperature = options.temperature, .top_k = options.top_k, .seed = options.seed};
  for (index_t i = 0; i < options.tokens; ++i) {
    std::size_t const seen = std::min(all.size(), std::size_t(context));
    next_logits(std::span<std::int32_t const>(all).last(seen), logits);
    ops::sample_row row{.logits = logits.data(), .options = &how, .position = std::uint64_t(i)};
    ops::sample(one_thread, ops::sample_args{.rows = {&row, 1}, .vocabulary = vocabulary});
    if (row.token < 0)
      throw error(errc::bad_argument,
                  "tenon::generate: the model's logits are no numbers; its training has diverged. "
                  "Fix: a lower learning rate, or an earlier checkpoint.");
    all.push_back(row.token);
  }
  return {all.begin() + std::ptrdiff_t(prompt.size()), all.end()};
}
}  // namespace train

/// Continues `prompt` by `options.tokens` tokens and returns only those. Each token reads up to `context` tokens before
/// it, all computed again: for a look at a training run. (Serving is the engine's job.)
template <class Trainer>
std::vector<std::int32_t> generate(Trainer& trainer, std::span<std::int32_t const> prompt,
                                   sample_options const& options = {}) {
  return train::generate(
      trainer.config().context, trainer.config().vocabulary,
      [&](std::span<std::int32_t const> tokens, std::span<float> logits) { trainer.next_logits(tokens, logits); },
      prompt, options);
}

/// `generate` for models whose tokens are bytes; a token that is none gives a question mark.
template <class Trainer>
std::string generate_text(Trainer& trainer, std::string_view prompt, sample_options const& options = {}) {
  std::vector<std::int32_t> tokens;
  for (char c : prompt) tokens.push_back(std::int32_t(static_cast<unsigned char>(c)));
  std::string text(prompt);
  for (auto token : generate(trainer, tokens, options)) text.push_back(token < 256 ? char(token) : '?');
  return text;
}

}  // namespace tenon
