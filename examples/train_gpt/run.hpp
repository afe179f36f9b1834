// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <nlohmann/json.hpp>

#include <tenon/comm/trace.hpp>
#include <tenon/exec/host/peak.hpp>
#include <tenon/profile/table.hpp>
#include <tenon/train.hpp>

#include <sys/resource.h>

#include "arguments.hpp"

namespace train_gpt {

namespace fs = std::filesystem;

/// Files as they are; of folders every text file below, in the order of their names.
inline std::vector<std::string> text_files(std::vector<std::string> const& given) {
  static std::vector<std::string> const kinds{".txt", ".md", ".hpp", ".cpp",   ".h",
                                              ".c",   ".cc", ".py",  ".cmake", ".json"};
  std::vector<std::string> files;
  for (auto const& name : given) {
    if (!fs::is_directory(name)) {
      files.push_back(name);
      continue;
    }
    std::size_t const before = files.size();
    for (fs::recursive_directory_iterator it(name), end; it != end; ++it) {
      std::string const entry = it->path().filename().string();
      if (it->is_directory() && (entry[0] == '.' || entry == "build" || entry == "run")) it.disable_recursion_pending();
      else if (it->is_regular_file() && it->file_size() > 0 &&
               std::find(kinds.begin(), kinds.end(), it->path().extension().string()) != kinds.end())
        files.push_back(it->path().string());
    }
    std::sort(files.begin() + std::ptrdiff_t(before), files.end());
    if (files.size() == before)
      throw tenon::argument_error("--text " + name + ": the folder holds no text file. Fix: name the files.");
  }
  return files;
}

/// What can be printed of a model's bytes: text, with a dot for every byte that is none.
inline std::string printable(std::string s) {
  for (char& c : s)
    if ((static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\t') || static_cast<unsigned char>(c) >= 127) c = '.';
  return s;
}

template <class Trainer>
void print_sample(Trainer& trainer, arguments const& a, char const* when) {
  if (a.sample_tokens <= 0 || a.json) return;
  auto const text = tenon::generate_text(trainer, a.prompt, {.tokens = a.sample_tokens, .seed = a.seed});
  std::printf("\n---- sample, %s ----\n%s\n--------\n\n", when, printable(text).c_str());
  std::fflush(stdout);
}

template <class Model, class Precision>
int run(typename Model::config_type config, arguments const& a) {
  using trainer = tenon::trainer<Model, Precision, tenon::memory::recompute_selective>;
  if (a.context) config.context = a.context;
  config.dropout = a.dropout;
  auto const files = text_files(a.text);
  tenon::byte_corpus const text({files.begin(), files.end()});
  trainer t{config,
            {.batch = a.batch,
             .accumulate = a.accumulate,
             .learning_rate = a.learning_rate,
             .schedule = {.warmup_steps = std::min<index_t>(a.steps / 10, 200), .total_steps = a.steps},
             .seed = a.seed,
             .threads = a.threads}};
  double const peak = tenon::exec::measure_fma_peak(t.context().pool());
  if (!a.json)
    std::printf("%s: %.2f million parameters, %s, %d threads at %.0f GFLOP/s, %s\n%zu bytes of text in %zu files\n",
                a.model.c_str(), double(t.parameter_count()) / 1e6, Precision::name, t.context().pool().size(),
                peak / 1e9, tenon::simd::instruction_set, std::size_t(text.size()), files.size());
  tenon::profile::rank_recorder recorder;
  if (!a.trace.empty() || a.table) t.record(&recorder);
  if (!a.resume) print_sample(t, a, "before training");

  tenon::progress_line progress(stdout, a.steps, peak);
  auto const result = tenon::fit(t, text,
                                 {.steps = a.steps,
                                  .out = a.out,
                                  .resume = a.resume,
                                  .checkpoint_every = a.checkpoint_every,
                                  .evaluate_every = a.evaluate_every,
                                  .on_step = [&](tenon::fit_event const& e) {
                                    if (!a.json) progress.update(e);
                                  }});
  if (!a.json) progress.finish();
  t.record(nullptr);
  if (!a.trace.empty()) tenon::comm::write_trace(t.mesh().world, a.trace, recorder);
  if (a.table)
    std::fputs(tenon::profile::table(recorder, {peak, tenon::exec::measure_read_bandwidth(t.context().pool())}).c_str(),
               stdout);
  print_sample(t, a, "after training");

  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  nlohmann::ordered_json const summary{{"model", a.model},
                                       {"precision", Precision::name},
                                       {"steps", result.steps},
                                       {"loss", result.loss},
                                       {"validation_loss", result.validation_loss},
                                       {"tokens_per_second", result.tokens_per_second},
                                       {"flops_utilization", result.flops_per_second / peak},
                                       {"peak_rss_bytes", std::int64_t(usage.ru_maxrss) * 1024},
                                       {"threads", t.context().pool().size()},
                                       {"instruction_set", tenon::simd::instruction_set},
                                       {"parameters_sha256", tenon::parameters_sha256(t)}};
  if (a.json) std::printf("%s\n", summary.dump().c_str());
  else {
    std::printf("step %td: loss %.3f, validation %.3f, %.0f tokens/s, %.0f %% of the processor's peak\n", result.steps,
                result.loss, result.validation_loss, result.tokens_per_second, 100 * result.flops_per_second / peak);
    if (!a.out.empty())
      std::printf(
          "written to %s: checkpoint (step-*), metrics.jsonl, loss.svg\n\nTry next:\n"
          "  --resume --steps %td --out %s   train on from here\n"
          "  --text FILE...                   your own text\n"
          "  --model llama-small              another architecture; --help lists them\n",
          a.out.c_str(), 2 * a.steps, a.out.c_str());
  }
  return 0;
}

inline tenon::models::gpt2<> model_of(tenon::gpt2_config const&) { return {}; }
inline tenon::models::llama<> model_of(tenon::llama_config const&) { return {}; }
inline tenon::models::mixtral<> model_of(tenon::mixtral_config const&) { return {}; }

template <class Precision>
int run(arguments const& a) {
  return std::visit([&](auto const& config) { return run<decltype(model_of(config)), Precision>(config, a); },
                    models().at(a.model));
}

}  // namespace train_gpt
