// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Beam search: the likeliest texts, among those that begin like one of the likeliest so far.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <tenon/core/view.hpp>
#include <tenon/ops/host/rope.hpp>
#include <tenon/ops/sample.hpp>

namespace tenon::infer {

/// When the search ends, once as many texts have ended as there are beams: when no beam can become better than the worst
/// of them, supposing that it keeps its score (`no`), at once (`yes`), or when none can become better at any length.
enum class early_stopping { no, yes, never };

struct beam_options {
  index_t beams = 1;
  index_t max_tokens = 16;
  float length_penalty = 1;  ///< a text's score is its log-probability divided by its length to this power
  early_stopping early = early_stopping::no;
  std::span<std::int32_t const> stop_tokens{};  ///< end a text and are part of it
};

/// The search, without the model.
/// @source Hugging Face transformers 4.50, GenerationMixin._beam_search
/// @test tests/infer/engine_test.cpp, tests/parity/beam_test.py
class beam_search {
 public:
  struct hypothesis {
    std::vector<ops::token_value> tokens;  ///< with their log-probabilities
    double score;
  };
  /// A text that goes on: beam `parent` and one token more.
  struct continuation {
    index_t parent;
    ops::token_value token;
    float sum;  ///< of log-probabilities
  };

  explicit beam_search(beam_options const& o) : options(o), beams(1) {}

  /// So many of the likeliest tokens of a beam are looked at.
  index_t width(index_t vocabulary) const { return std::min(candidates(), vocabulary); }

  /// The beams of the next step, given the likeliest tokens of those of this one; none when the search has ended.
  /// @shape likeliest [beams, width]
  std::span<continuation const> advance(std::span<ops::token_value const> likeliest) {
    std::size_t const each = likeliest.size() / beams.size(), n = std::size_t(options.beams);
    ++length;
    all.clear();
    for (std::size_t i = 0; i < likeliest.size(); ++i)
      if (float const p = likeliest[i].value; p > -std::numeric_limits<float>::infinity())
        all.push_back({index_t(i / each), likeliest[i], beams[i / each].sum + p});
    std::stable_sort(all.begin(), all.end(), [](auto const& a, auto const& b) { return a.sum > b.sum; });
    next.clear();
    for (std::size_t rank = 0; rank < std::min(std::size_t(candidates()), all.size()) && next.size() < n; ++rank) {
      bool const stops = std::find(options.stop_tokens.begin(), options.stop_tokens.end(), all[rank].token.token) !=
                         options.stop_tokens.end();
      if (!stops) next.push_back(all[rank]);
      else if (rank < n) finish(all[rank]);
    }
    if (length == options.max_tokens)
      for (auto const& c : next) finish(c);
    if (length == options.max_tokens || (!next.empty() && is_done(next[0].sum))) next.clear();
    std::vector<beam> grown;
    for (auto const& c : next) grown.push_back({with(c), c.sum});
    beams = std::move(grown);
    return next;
  }
  /// The best first.
  std::span<hypothesis const> found() const { return ended; }

 private:
  struct beam {
    std::vector<ops::token_value> tokens;
    float sum = 0;
  };
  /// Enough that each beam goes on even where every stop token is likelier.
  index_t candidates() const { return std::max<index_t>(2, 1 + index_t(options.stop_tokens.size())) * options.beams; }
  std::vector<ops::token_value> with(continuation const& c) const {
    auto tokens = beams[std::size_t(c.parent)].tokens;
    tokens.push_back(c.token);
    return tokens;
  }
  double score(float sum, index_t tokens) const {
    return double(sum) /
           ops::detail::fixed_exp(double(options.length_penalty) * ops::detail::fixed_log(double(tokens)));
  }
  void finish(continuation const& c) {
    hypothesis h{with(c), score(c.sum, length)};
    ended.insert(
        std::upper_bound(ended.begin(), ended.end(), h, [](auto const& a, auto const& b) { return a.score > b.score; }),
        std::move(h));
    if (index_t(ended.size()) > options.beams) ended.pop_back();
  }
  bool is_done(float best) const {
    if (index_t(ended.size()) < options.beams) return false;
    if (options.early == early_stopping::yes) return true;
    bool const longest_counts = options.early == early_stopping::never && options.length_penalty > 0;
    return ended.back().score >= score(best, longest_counts ? options.max_tokens : length);
  }

  beam_options options;
  index_t length = 0;
  std::vector<beam> beams;
  std::vector<hypothesis> ended;
  std::vector<continuation> all, next;
};

}  // namespace tenon::infer
