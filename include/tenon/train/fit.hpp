// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <tenon/data/sampler.hpp>
#include <tenon/data/source.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/train/any_trainer.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/loss_curve.hpp>
#include <tenon/train/metrics.hpp>
#include <tenon/train/receipt.hpp>
#include <tenon/train/trainer.hpp>

namespace tenon {

/// What `fit` tells after each step.
struct fit_event : step_result {
  index_t total_steps = 0;
  double tokens_per_second = 0;             ///< of this step
  double flops_per_second = 0;              ///< as papers count them: recomputation not counted
  std::optional<double> validation_loss{};  ///< mean in nats, on the steps that evaluate
  std::string saved{};                      ///< the checkpoint that is being written behind this step
};

struct fit_options {
  index_t steps = 0;                 ///< train until this step of the run; steps done before a resume count
  std::string out{};                 ///< folder for checkpoints, metrics.jsonl and loss.svg; empty: nothing is written
  bool resume = false;               ///< continue from the newest good checkpoint in `out`, if there is one
  index_t checkpoint_every = 0;      ///< steps; 0: at the end only
  std::size_t keep_checkpoints = 2;  ///< the newest ones
  index_t keep_every = 0;            ///< and those of every so many steps; 0: none for its number
  double validation_share = 0.05;    ///< the last part of the text is not trained on
  index_t evaluate_every = 0;        ///< steps; 0: at the end only
  index_t evaluate_samples = 32;     ///< sequences per evaluation, always the same ones
  /// A folder in memory that outlives the ranks: what a checkpoint holds goes there after each step, and a resumed run
  /// goes on from there if that is newer. Empty: none.
  std::string memory{};
  std::string progress{};  ///< a file that tells the last finished step; empty: none
  /// A folder for receipts of the steps, e.g. `receipts` in `out`: hashes of all that went through each rank, by which a
  /// step can be done again and compared (receipt::compare). Memory that changes between steps ends the run. Empty: none.
  std::string receipts{};
  std::optional<receipt::flip> fault{};  ///< for tests of that
  std::function<bool()> stop{};          ///< asked on every rank after each step: if one says yes all save and return
  std::function<void(fit_event const&)> on_step{};  ///< called on rank 0
  /// Called on rank 0 with a sentence about what `fit` could help itself with: a broken checkpoint that was passed over.
  std::function<void(std::string const&)> on_notice{};
};

struct fit_result {
  index_t steps = 0;
  double loss = 0, validation_loss = 0;
  double tokens_per_second = 0;    ///< median over the steps of this call, the first left out when there are more
  double flops_per_second = 0;     ///< at that rate
  double bytes_sent_per_step = 0;  ///< by this rank; evaluations and checkpoints are not counted
  bool stopped = false;            ///< before the last step, because it was asked to
};

namespace train {

/// Mean loss over the first windows of a text, the same ones at every call; NaN when it holds none.
template <class Trainer, class Source>
double validation_loss(Trainer& trainer, Source const& text, fit_options const& o) {
  index_t const length = trainer.options().sequence_length;
  if (index_t(text.size()) < length + 1) return std::nan("");
  sequential_windows const windows(text, length);
  index_t const count = std::min(windows.count(), o.evaluate_samples);
  std::vector<std::int32_t> tokens(std::size_t(count * length)), targets(tokens.size());
  windows.fill(0, count, tokens, targets);
  return trainer.evaluate(tokens, targets);
}

/// What a text is, for the checkpoint: a digest of its length and of up to a million tokens at either end.
template <class Source>
std::string text_digest(Source const& text) {
  io::sha256 hash;
  std::int64_t const size = text.size();
  hash.update(&size, sizeof size);
  index_t const part = std::min<index_t>(text.size(), 1 << 20);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(part));
  for (index_t begin : {index_t(0), text.size() - part}) {
    text.copy(begin, tokens);
    hash.update(tokens.data(), tokens.size() * sizeof(tokens[0]));
  }
  return hash.finish_hex();
}

/// The state after each step in a folder in memory. What goes wrong there is no reason to stop.
template <class World>
class memory_copies {
 public:
  /// The trainer lives longer. @param tells called with a sentence when it ends
  memory_copies(any_trainer<World> const& trainer, io::path const& folder, std::string const& text,
                std::function<void(std::string const&)> tells)
      : notice(std::move(tells)) {
    guarded([&] { writer.emplace(trainer, folder, text, retention{}); });
  }
  void save() {
    if (writer) guarded([&] { writer->save(); });
  }
  /// Returns when what was saved is there.
  void wait() {
    if (writer) guarded([&] { writer->wait(); });
  }

 private:
  template <class F>
  void guarded(F&& f) {
    try {
      f();
    } catch (file_error const& e) {
      writer.reset();
      notice("steps are not kept in memory any more: " + std::string(e.what()));
    }
  }
  std::function<void(std::string const&)> notice;
  std::optional<checkpoint_writer<World>> writer;
};

/// Whether a rank says yes; false where nobody asks.
template <class World>
bool any_rank(World& world, std::function<bool()> const& asks) {
  if (!asks) return false;
  std::int64_t yes = asks();
  world.sum({&yes, 1});
  return yes > 0;
}

inline double median(std::vector<double> values) {
  if (values.size() > 1) values.erase(values.begin());
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// What of a run depends on the types of trainer and text.
struct fit_work {
  double tokens, flops;  ///< of a step
  std::function<step_result()> step;
  std::function<double()> validation_loss;
};
/// @param text what the text is, for checkpoints
template <class World>
fit_result fit(any_trainer<World> const& trainer, fit_work const& run, std::string const& text, fit_options const& o) {
  io::path const out = o.out;
  auto& world = trainer.world;
  bool const writes = !o.out.empty() && world.rank() == 0;
  std::optional<checkpoint_writer<World>> checkpoints;
  if (!o.out.empty()) checkpoints.emplace(trainer, out, text, retention{o.keep_checkpoints, o.keep_every});
  auto const notice = [&](std::string const& sentence) {
    if (o.on_notice && world.rank() == 0) o.on_notice(sentence);
  };
  if (o.resume) {
    for (auto const& sentence : load_newest_checkpoint(trainer, out, text, o.memory)) notice(sentence);
    notice("continues after step " + std::to_string(trainer.steps));
  }
  std::optional<memory_copies<World>> in_memory;
  if (!o.memory.empty()) in_memory.emplace(trainer, o.memory, text, notice);
  std::optional<metrics_writer> metrics;
  if (writes) metrics.emplace(out / "metrics.jsonl", trainer.steps);
  std::optional<receipt::keeper<World>> receipts;
  if (!o.receipts.empty()) receipts.emplace(trainer, o.receipts, text, o.fault);
  auto const step = [&] {
    try {
      return run.step();
    } catch (memory_changed const&) {  // on all ranks: what was saved before may come to its end
      if (in_memory) in_memory->wait();
      if (checkpoints) checkpoints->wait();
      throw;
    }
  };

  std::vector<double> seconds;
  std::uint64_t sent = 0;
  fit_result result{.steps = trainer.steps};
  while (trainer.steps < o.steps) {
    auto const begin = std::chrono::steady_clock::now();
    auto const sent_before = world.traffic().bytes();
    fit_event event{step()};
    if (receipts) receipts->write({event.loss, event.grad_norm});
    sent += world.traffic().bytes() - sent_before;
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    event.total_steps = o.steps;
    event.tokens_per_second = run.tokens / seconds.back();
    event.flops_per_second = run.flops / seconds.back();
    if (in_memory) in_memory->wait();  // so that never more than this step is lost
    if (!o.progress.empty() && world.rank() == 0) io::write_file_atomically(o.progress, std::to_string(event.step));
    bool const last = event.step >= o.steps;
    auto const due = [&](index_t every) { return last || (every > 0 && event.step % every == 0); };
    if (in_memory && !last) in_memory->save();
    if (due(o.evaluate_every)) event.validation_loss = run.validation_loss();
    if (metrics) metrics->write(event);
    result.stopped = !last && any_rank(world, o.stop);
    if (checkpoints && (due(o.checkpoint_every) || result.stopped)) event.saved = checkpoints->save().string();
    if (o.on_step && world.rank() == 0) o.on_step(event);
    result.steps = event.step;
    result.loss = event.loss;
    if (event.validation_loss) result.validation_loss = *event.validation_loss;
    if (result.stopped) break;
  }
  if (checkpoints) checkpoints->wait();
  if (metrics) write_loss_curve(out / "loss.svg", metrics->path());
  if (!seconds.empty()) result.bytes_sent_per_step = double(sent) / double(seconds.size());
  double const typical = median(seconds);
  if (typical > 0) {
    result.tokens_per_second = run.tokens / typical;
    result.flops_per_second = run.flops / typical;
  }
  return result;
}

}  // namespace train

/// Trains on a text until `steps`: draws batches, writes metrics, evaluates, saves checkpoints, resumes.
/// A run that is killed and resumed ends in the same bits as one that was not. Every rank calls it; rank 0 writes.
/// @error argument_error: text too short, vocabulary too large for the model; file_error: folder, disk, checkpoint;
/// memory_changed: with receipts
template <class Trainer, class Source>
fit_result fit(Trainer& trainer, Source const& source, fit_options const& o) {
  auto const& settings = trainer.options();
  if (source.vocabulary() > trainer.config().vocabulary)
    throw argument_error("tenon::fit: the text has tokens up to " + std::to_string(source.vocabulary()) +
                         " but the model's vocabulary is " + std::to_string(trainer.config().vocabulary) +
                         ". Fix: a model with the text's vocabulary.");
  auto const parts = split(source, o.validation_share);
  batch_sampler const sampler(parts.training, settings.sequence_length, settings.seed);
  auto const count = std::size_t(settings.batch * settings.sequence_length);
  std::vector<std::int32_t> tokens(count), targets(count);
  auto const step = [&] {
    sampler.fill(std::uint64_t(trainer.samples()), settings.batch, tokens, targets);
    return trainer.step(tokens, targets);
  };
  auto const validation_loss = [&] { return train::validation_loss(trainer, parts.validation, o); };
  return train::fit(train::any_trainer(trainer), {double(count), trainer.step_flops(), step, validation_loss},
                    o.out.empty() && o.memory.empty() && o.receipts.empty() ? "" : train::text_digest(source), o);
}

}  // namespace tenon
