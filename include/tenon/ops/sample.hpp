// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Drawing the next token from a row of logits, and log-probabilities.
#include <cmath>
#include <cstdint>
#include <span>
#include <string>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// A token and a number that belongs to it: a bias or a log-probability.
struct token_value {
  std::int32_t token;
  float value;
};
/// A token of the prompt or of what was generated so far, and how often it was generated.
struct seen_token {
  std::int32_t token;
  std::int32_t generated;
};

/// How a request draws its tokens. Steps are taken in this order, that of Hugging Face and vLLM:
///  1. `bias` is added; the logit of every seen token is divided by `repetition_penalty` if positive, else multiplied by
///     it; then frequency_penalty * generated is subtracted, and presence_penalty if generated > 0; tokens that the
///     grammar forbids go to -inf;
///  2. logits are divided by `temperature`; 0 takes the largest one and skips the rest;
///  3. `top_k`: the k largest stay;
///  4. `top_p`: of these, the fewest of the largest whose probability together reaches top_p;
///  5. `min_p`: of these, the ones with at least min_p times the probability of the likeliest.
/// Among equal logits the lowest token comes first: exactly k tokens stay, and greedy takes the lowest.
struct sampling_options {
  float temperature = 1.0f;
  index_t top_k = 0;   ///< 0: all
  float top_p = 1.0f;  ///< 1: all
  float min_p = 0.0f;  ///< 0: all
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::uint64_t seed = 0;
  std::uint64_t sample = 0;  ///< which of the samples of one request
  std::span<token_value const> bias{};
};

/// One row: what it is drawn from and, on return, what was drawn. The token is a function of the logits, the options,
/// the lists and the position alone. Log-probabilities are of the logits as they are, before step 1: to the bit what
/// `linear_cross_entropy` gives as losses, negated.
/// @shape logits [vocabulary]  allowed [ceil(vocabulary / 32)] or empty: all
struct sample_row {
  float const* logits = nullptr;
  sampling_options const* options = nullptr;
  std::uint64_t position = 0;                ///< of the drawn token in its sequence
  std::span<seen_token const> seen{};        ///< each token once
  std::span<std::uint32_t const> allowed{};  ///< bit t % 32 of word t / 32: may token t be drawn?
  bool wants_log_probability = false;
  std::span<token_value> likeliest{};  ///< filled in: the likeliest tokens and their log-probabilities, in this order

  std::int32_t token = -1;  ///< -1: no token is left, or no logit is a number
  float log_probability = 0;
};

/// @param leaf_vocabulary of the log-sum-exp, as in linear_cross_entropy_args
struct sample_args {
  std::span<sample_row> rows;
  index_t vocabulary = 0;
  index_t leaf_vocabulary = 0;
};

/// Can these options be used at all? For whoever takes in requests.
/// @error argument_error that names the option and its value
inline void check_sampling(sampling_options const& o, index_t vocabulary) {
  auto const require = [](bool fits, char const* name, auto value, char const* fix) {
    if (fits) return;
    throw argument_error("tenon::ops::sample: " + std::string(name) + " is " + std::to_string(value) + ". Fix: " + fix +
                         ".");
  };
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature, "a number from 0 on");
  require(o.top_k >= 0, "top_k", o.top_k, "a count, or 0 for all tokens");
  require(o.top_p >= 0 && o.top_p <= 1, "top_p", o.top_p, "a number in [0, 1]");
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "a number in [0, 1]");
  require(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition_penalty", o.repetition_penalty,
          "a positive number; 1 changes nothing");
  require(std::isfinite(o.presence_penalty), "presence_penalty", o.presence_penalty, "a finite number");
  require(std::isfinite(o.frequency_penalty), "frequency_penalty", o.frequency_penalty, "a finite number");
  for (auto const& b : o.bias) {
    require(b.token >= 0 && b.token < vocabulary, "the token of a bias", b.token, "a token of the vocabulary");
    require(b.value < INFINITY, "a bias", b.value, "a finite number, or -inf to forbid the token");
  }
}

/// @error argument_error for impossible options, tokens outside the vocabulary or lists of the wrong length
/// @test tests/ops/sample_test.cpp
inline constexpr struct sample_t : operation<sample_t> {
  static constexpr char const* name = "sample";
  static profile::work work(sample_args const& a) {
    double const n = double(a.rows.size()) * double(a.vocabulary);
    return {n, n * sizeof(float)};
  }
} sample{};

}  // namespace tenon::ops
