// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/exec/host/math.hpp>

namespace tenon {

/// How text is drawn from a model.
struct sample_options {
  index_t tokens = 200;      ///< how many to draw
  float temperature = 0.8f;  ///< 0: always the likeliest token
  int top_k = 0;             ///< draw among the k likeliest; 0: among all
  std::uint64_t seed = 1;
};

/// Draws one token: a function of the logits, the seed and the position alone.
/// @shape logits [vocabulary], changed on return
inline std::int32_t sample_token(std::span<float> logits, sample_options const& o, std::uint64_t position) {
  auto const likeliest = std::max_element(logits.begin(), logits.end());
  if (o.temperature <= 0) return std::int32_t(likeliest - logits.begin());
  float const largest = *likeliest;
  float least = -INFINITY;
  if (o.top_k > 0 && std::size_t(o.top_k) < logits.size()) {
    std::vector<float> sorted(logits.begin(), logits.end());
    std::nth_element(sorted.begin(), sorted.begin() + o.top_k - 1, sorted.end(), std::greater<>());
    least = sorted[std::size_t(o.top_k) - 1];
  }
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); i += lanes) {
    int const n = int(std::min<std::size_t>(lanes, logits.size() - i));
    auto const x = simd::load(logits.data() + i, n, -INFINITY);
    auto const shifted = (x - simd::broadcast(largest)) * simd::broadcast(1.0f / o.temperature);
    auto const p = simd::select(x < simd::broadcast(least), simd::zeros(), simd::exp(shifted));
    simd::store(logits.data() + i, p, n);
    for (int j = 0; j < n; ++j) total += double(logits[i + std::size_t(j)]);
  }
  double left = double(random_stream(o.seed, "sample").uniform(0, position)) * total;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    left -= double(logits[i]);
    if (left < 0 && logits[i] > 0) return std::int32_t(i);
  }
  return std::int32_t(likeliest - logits.begin());
}

/// Continues `prompt` by `options.tokens` tokens and returns only those. Each token reads up to `context` tokens before
/// it, all computed again: for a look at a training run. (Serving is the engine's job.)
template <class Trainer>
std::vector<std::int32_t> generate(Trainer& trainer, std::span<std::int32_t const> prompt,
                                   sample_options const& options = {}) {
  if (prompt.empty()) throw argument_error("tenon::generate: the prompt is empty. Fix: at least one token.");
  std::vector<std::int32_t> all(prompt.begin(), prompt.end());
  std::vector<float> logits(std::size_t(trainer.config().vocabulary));
  for (index_t i = 0; i < options.tokens; ++i) {
    std::size_t const seen = std::min<std::size_t>(all.size(), std::size_t(trainer.config().context));
    trainer.next_logits(std::span<std::int32_t const>(all).last(seen), logits);
    all.push_back(sample_token(logits, options, std::uint64_t(i)));
  }
  return {all.begin() + std::ptrdiff_t(prompt.size()), all.end()};
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
