// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Speculation with a second, smaller model of the same vocabulary.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/exec/host/context.hpp>
#include <tenon/infer/bind.hpp>
#include <tenon/infer/model_file.hpp>
#include <tenon/infer/page_tables.hpp>
#include <tenon/infer/runner.hpp>
#include <tenon/infer/scheduler.hpp>
#include <tenon/ops/sample.hpp>

namespace tenon::infer {

/// Continues the texts of an engine's sequences by a few tokens, drawn as the engine draws them: same seed, same
/// positions. Where both models think alike, the guess is the token.
///
/// It has a cache of its own, that holds each text as far as it is certain, and guesses while they may be. Guesses are
/// nobody's right: a sequence that finds no page, or whose prompt is still being read, gets none. So there is nothing to
/// schedule.   @test tests/infer/engine_test.cpp
class draft_model {
 public:
  /// @param bind (file, weights, settings) -> bound_model
  /// @error argument_error when the file's model has another vocabulary; and those of bind_model
  template <class Bind>
  draft_model(exec::host_context& context, engine_options settings, index_t vocabulary, Bind&& bind)
      : exec(context), file(settings.draft_model), weights(context, file) {
    settings.longest = 0;
    auto bound = bind(file, weights, settings);
    auto const& o = bound.scheduling;
    network = std::move(bound.network);
    if (network->vocabulary() != vocabulary)
      throw argument_error("tenon::engine: the draft model " + file.path().string() + " has a vocabulary of " +
                           std::to_string(network->vocabulary()) + " tokens, and the model's has " +
                           std::to_string(vocabulary) + ". Fix: a smaller model of the same family.");
    longest = settings.longest;
    token_budget = o.token_budget;
    batch.reserve(o.groups.size(), o.token_budget, o.max_sequences);
    tables.emplace(o.page_tokens, o.groups, 0, o.keeps_prefixes);
  }

  /// A sequence that is to get guesses.
  struct request {
    sequence_id id;
    std::span<std::int32_t const> text;
    index_t drafts, most;  ///< tokens to guess; tokens that the sequence can have
    std::uint64_t salt;
    ops::sampling_options sampling;
    std::span<ops::seen_token const> seen;  ///< until the next run
  };
  void ask(request const& r) {
    auto const found = std::find_if(all.begin(), all.end(), [&](auto const& s) { return s.asked.id == r.id; });
    sequence& s = found == all.end() ? all.emplace_back() : *found;
    s.asked = r;
    s.tokens.reserve(std::size_t(r.most));
    s.tokens.assign(r.text.begin(), r.text.end());
    s.wanted = std::min(s.known() + r.drafts, r.most - 1);
    if (s.wanted > longest) return void(s.wanted = 0);
    if (s.pages.groups.empty()) tables->begin(s.pages, r.most, r.salt, s.tokens);
    // Guesses that did not hold go.
    tables->truncate(s.pages, std::min(s.pages.tokens, s.known() - 1));
  }
  /// Calls give(id, tokens) with what those who have asked get. The pages of those for whom is_live(id) is false are
  /// free again.
  template <class IsLive, class Give>
  void run(IsLive&& is_live, Give&& give) {
    std::erase_if(all, [&](sequence& s) {
      if (is_live(s.asked.id)) return false;
      tables->release(s.pages);
      return true;
    });
    while (run_step()) {
    }
    for (sequence& s : all)
      if (std::exchange(s.wanted, 0) > s.known())
        give(s.asked.id, std::span(std::as_const(s.tokens)).subspan(std::size_t(s.known())));
  }

 private:
  struct sequence {
    request asked;
    std::vector<std::int32_t> tokens;  ///< the text and guesses
    index_t wanted = 0;                ///< of them
    sequence_pages pages;
    index_t known() const { return index_t(asked.text.size()); }
  };

  /// A token more for all who want some and find pages. A prompt that takes more than a step is read on when its
  /// sequence asks again, so that the others need not wait for it.
  bool run_step() {
    batch.clear();
    rows.clear(), drawing.clear(), moves.clear();
    index_t spare = token_budget;
    for (sequence& s : all) {
      index_t const size = index_t(s.tokens.size());
      if (size >= s.wanted) continue;
      if (s.pages.tokens < s.known()) {
        tables->publish(s.pages, s.asked.salt, std::span(s.tokens).first(std::size_t(s.pages.tokens)));
        tables->trim(s.pages);
      }
      index_t const first = s.pages.tokens, count = tables->extendable(s.pages, std::min(size - first, spare));
      bool const draws = first + count == size;
      if (!draws) s.wanted = size;
      if (count == 0) continue;
      tables->extend(s.pages, count, moves);
      spare -= count;
      batch.add(std::span(s.tokens).subspan(std::size_t(first), std::size_t(count)), first, draws, s.pages);
      if (draws) drawing.push_back(&s);
    }
    if (batch.tokens.empty()) return false;
    for (auto const& m : moves) network->move(m);
    logits.resize(drawing.size() * std::size_t(network->vocabulary()));
    auto const out = matrix(logits.data(), index_t(drawing.size()), network->vocabulary());
    network->run(batch, out);
    for (auto const* s : drawing)
      rows.push_back({.logits = &out(index_t(rows.size()), 0),
                      .options = &s->asked.sampling,
                      .position = s->tokens.size(),
                      .seen = s->asked.seen});
    ops::sample(exec, ops::sample_args{.rows = rows, .vocabulary = network->vocabulary()});
    for (std::size_t i = 0; i < rows.size(); ++i)
      if (rows[i].token >= 0) drawing[i]->tokens.push_back(rows[i].token);
      else drawing[i]->wanted = index_t(drawing[i]->tokens.size());
    return true;
  }

  exec::host_context& exec;
  model_file file;
  file_weights weights;
  std::unique_ptr<runner> network;
  index_t longest = 0, token_budget = 0;
  std::optional<page_tables> tables;
  std::vector<sequence> all;
  // Of a step; memory that is taken once.
  step_batch batch;
  std::vector<page_move> moves;
  std::vector<sequence*> drawing;
  std::vector<ops::sample_row> rows;
  std::vector<float> logits;
};

}  // namespace tenon::infer
