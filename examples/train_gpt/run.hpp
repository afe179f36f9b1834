// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file One run, of any model on any mesh.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>

#include <nlohmann/json.hpp>

#include <tenon/comm/trace.hpp>
#include <tenon/exec/host/peak.hpp>
#include <tenon/profile/table.hpp>
#include <tenon/train.hpp>

#include <sys/resource.h>

#include "arguments.hpp"
#include "kernels.hpp"
#include "report.hpp"

namespace train_gpt {

inline std::int64_t sum_over_ranks(auto& world, std::int64_t value) {
  world.sum({&value, 1});
  return value;
}

/// What a run does with its trainer.
struct trainer_calls {
  char const* precision;
  index_t parameters;
  tenon::exec::thread_pool& pool;
  std::function<tenon::fit_result(tenon::fit_options const&)> fit;
  std::function<std::string(tenon::sample_options const&)> generate;
  std::function<void(tenon::profile::rank_recorder*)> record;
  std::function<void(std::string const& checkpoint)> load;
  std::function<std::string()> parameters_sha256;
};

/// A run but for the types of its trainer: compiled once for a communicator, in communicator.cpp.in. Every rank calls it,
/// rank 0 prints how it goes.
template <class World>
nlohmann::ordered_json run(World& world, arguments const& a, char const* communicator, tenon::byte_corpus const& text,
                           std::size_t files, trainer_calls const& t) {
  bool const prints = world.rank() == 0 && !a.json;
  double const own_peak = tenon::exec::measure_fma_peak(t.pool),
               peak = double(sum_over_ranks(world, std::int64_t(own_peak)));
  if (prints) {
    if (world.size() > 1) std::printf("%s: %d ranks over %s\n", to_string(a.mesh).c_str(), world.size(), communicator);
    std::printf("%s: %.2f million parameters, %s, %d threads at %.0f GFLOP/s, %s\n%zu bytes of text in %zu files\n",
                a.model.c_str(), double(t.parameters) / 1e6, t.precision, t.pool.size() * world.size(), peak / 1e9,
                tenon::simd::instruction_set, std::size_t(text.size()), files);
  }
  auto const sample = [&](char const* when) {
    if (a.sample_tokens <= 0 || a.json) return;
    auto const drawn = t.generate({.tokens = a.sample_tokens, .seed = a.seed});
    if (prints) print_sample(drawn, when);
  };
  tenon::profile::rank_recorder recorder;
  bool const tabulates = world.rank() == 0 && a.table;
  if (!a.trace.empty() || tabulates) t.record(&recorder);
  if (!a.start.empty()) t.load(a.start);
  tenon::launch_settings const launched;
  bool const resumes = a.resume || launched;
  if (!resumes) sample("before training");
  if (!a.out.empty() || launched) tenon::catch_stop_signals();

  index_t const last = a.to ? a.to : a.steps;
  tenon::progress_line progress(stdout, last, peak);
  auto const result = t.fit({.steps = last,
                             .out = a.out,
                             .resume = resumes,
                             .checkpoint_every = a.checkpoint_every,
                             .keep_checkpoints = a.keep_checkpoints,
                             .keep_every = a.keep_every,
                             .evaluate_every = a.evaluate_every,
                             .memory = launched.memory,
                             .progress = launched.progress,
                             .receipts = a.receipts ? a.out + "/receipts" : a.receipts_folder,
                             .fault = flip_of(a.flip),
                             .stop = tenon::stop_asked,
                             .on_step =
                                 [&](tenon::fit_event const& e) {
                                   if (prints) progress.update(e);
                                 },
                             .on_notice = [](std::string const& s) { std::fprintf(stderr, "%s\n", s.c_str()); }});
  if (prints) progress.finish();
  t.record(nullptr);
  if (!a.trace.empty()) tenon::comm::write_trace(world, a.trace, recorder);
  if (tabulates)
    std::fputs(tenon::profile::table(recorder, {own_peak, tenon::exec::measure_read_bandwidth(t.pool)}).c_str(),
               stdout);
  if (!result.stopped) sample("after training");

  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {{"model", a.model},
          {"precision", t.precision},
          {"steps", result.steps},
          {"stopped", result.stopped},
          {"loss", result.loss},
          {"validation_loss", result.validation_loss},
          {"tokens_per_second", result.tokens_per_second},
          {"flops_utilization", result.flops_per_second / peak},
          {"peak_rss_bytes", std::int64_t(usage.ru_maxrss) * 1024},
          {"threads", t.pool.size()},
          {"instruction_set", tenon::simd::instruction_set},
          {"mesh", to_string(a.mesh)},
          {"communicator", communicator},
          {"ranks", world.size()},
          {"bytes_sent_per_step", sum_over_ranks(world, std::int64_t(result.bytes_sent_per_step))},
          {"parameters_sha256", t.parameters_sha256()}};
}

/// Trains as the arguments say and returns what came of it.
template <class Model, class Precision, class... Ps, class World>
nlohmann::ordered_json run(World& world, typename Model::config_type config, arguments const& a,
                           char const* communicator) {
  if (a.context) config.context = a.context;
  config.dropout = a.dropout;
  auto const files = text_files(a.text);
  tenon::byte_corpus const text({files.begin(), files.end()});
  tenon::trainer<Model, World, Precision, tenon::memory::recompute_selective, Ps...> t{
      world,
      config,
      {.batch = a.batch,
       .accumulate = a.accumulate,
       .learning_rate = a.learning_rate,
       .schedule = {.warmup_steps = std::min<index_t>(a.steps / 10, 200), .total_steps = a.steps},
       .seed = a.seed,
       .threads = a.threads,
       .mesh = a.mesh}};
  return run(world, a, communicator, text, files.size(),
             {Precision::name, t.parameter_count(), t.context().pool(),
              [&](tenon::fit_options const& o) { return tenon::fit(t, text, o); },
              [&](tenon::sample_options const& o) { return tenon::generate_text(t, a.prompt, o); },
              [&](tenon::profile::rank_recorder* r) { t.record(r); },
              [&](std::string const& from) { tenon::load_checkpoint(t, from, tenon::train::text_digest(text)); },
              [&] { return tenon::parameters_sha256(t); }});
}

}  // namespace train_gpt

/// What all trainers of a communicator share. After `extern template` it is declared as compiled elsewhere.
#define TENON_RUNS_OF(template_, World)                                                             \
  template_ nlohmann::ordered_json train_gpt::run(World&, train_gpt::arguments const&, char const*, \
                                                  tenon::byte_corpus const&, std::size_t,           \
                                                  train_gpt::trainer_calls const&);                 \
  template_ tenon::fit_result tenon::train::fit(tenon::train::any_trainer<World> const&,            \
                                                tenon::train::fit_work const&, std::string const&,  \
                                                tenon::fit_options const&);                         \
  template_ std::string tenon::train::parameters_sha256(tenon::train::any_trainer<World> const&);
