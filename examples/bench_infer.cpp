// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// How fast a model is read, answers, reads a prompt and generates, alone and with others; beside what this machine can do
// at most, measured in the same run. Prompts are random tokens.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <tenon/core/philox.hpp>
#include <tenon/exec/host/peak.hpp>

#include "any_model/engine.hpp"

#include <sys/resource.h>
#include <unistd.h>

namespace {

using namespace tenon;
using clock_type = std::chrono::steady_clock;
constexpr index_t short_prompt = 16, prefill_rounds = 3;

struct arguments {
  std::string model;
  index_t prompt_tokens = 512, new_tokens = 64;
  std::vector<index_t> batches{1, 4, 16, 64};
  int threads = 0;
  bool json = false;
};

double seconds_since(clock_type::time_point begin) {
  return std::chrono::duration<double>(clock_type::now() - begin).count();
}
double median(std::vector<double> all) {
  std::nth_element(all.begin(), all.begin() + std::ptrdiff_t(all.size() / 2), all.end());
  return all[all.size() / 2];
}
void say(std::string const& what) {
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "%s\033[K\r", what.c_str());
}

/// Prompts that no two of which are alike, so that none finds another's text in the cache.
class prompts {
 public:
  explicit prompts(index_t vocabulary) : words(std::uint32_t(vocabulary)) {}
  std::vector<std::int32_t> next(index_t tokens) {
    std::vector<std::int32_t> p;
    for (index_t i = 0; i < tokens; ++i) p.push_back(std::int32_t(random.word(made, std::uint64_t(i)) % words));
    ++made;
    return p;
  }

 private:
  random_stream random{1, "prompts"};
  std::uint32_t words;
  std::uint64_t made = 0;
};

/// Seconds until a prompt has given its first token.
double read_prompt(any_engine& e, std::vector<std::int32_t> prompt) {
  auto const begin = clock_type::now();
  e.submit({.prompt = std::move(prompt), .max_tokens = 1}, [](auto const&) { return true; });
  while (e.step()) {
  }
  return seconds_since(begin);
}

/// Seconds of one step in which each of `batch` sequences generates a token: the median of `steps`.
double decode_step(any_engine& e, prompts& random, index_t batch, index_t steps) {
  index_t generating = 0;
  bool enough = false;
  for (index_t i = 0; i < batch; ++i)
    e.submit({.prompt = random.next(short_prompt), .max_tokens = e.longest() - short_prompt},
             [&, is_first = true](auto const&) mutable {
               generating += std::exchange(is_first, false);
               return !enough;
             });
  while (generating < batch) e.step();
  std::vector<double> seconds;
  for (index_t s = 0; s < steps; ++s) {
    auto const begin = clock_type::now();
    e.step();
    seconds.push_back(seconds_since(begin));
  }
  enough = true;
  while (e.step()) {
  }
  return median(seconds);
}

void bench(arguments const& a) {
  index_t const most = *std::max_element(a.batches.begin(), a.batches.end());
  index_t const one = short_prompt + a.new_tokens + 2;
  say("loading");
  auto const start = clock_type::now();
  any_engine e{a.model,
               {.longest = std::max(a.prompt_tokens + 1, one),
                .cache_tokens = std::max(a.prompt_tokens + 1, most * one),
                .token_budget = std::max<index_t>(512, most * short_prompt),
                .max_sequences = most,
                .threads = a.threads}};
  double const load = seconds_since(start);
  prompts random(e.vocabulary());
  read_prompt(e, random.next(short_prompt));
  double const first_token = seconds_since(start);
  std::vector<double> prefill;
  say("prefill");
  for (index_t r = 0; r < prefill_rounds; ++r) prefill.push_back(read_prompt(e, random.next(a.prompt_tokens)));
  double const prefill_rate = double(a.prompt_tokens) / median(prefill);
  nlohmann::json decode = nlohmann::json::array();
  auto const weights = e.model().weights_per_token();
  double decode_alone = 0;
  for (index_t const batch : a.batches) {
    say("decode, batch " + std::to_string(batch));
    double const rate = double(batch) / decode_step(e, random, batch, a.new_tokens);
    if (batch == 1) decode_alone = rate;
    decode.push_back({{"batch", batch}, {"tokens_per_second", rate}});
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  double const memory = double(usage.ru_maxrss) * 1024;
  say("what the machine can do");
  auto& pool = e.context().pool();
  double const bandwidth = exec::measure_read_bandwidth(pool), flops = exec::measure_fma_peak(pool);
  double const memory_share = decode_alone * weights.bytes_generating / bandwidth;
  double const compute_share = prefill_rate * 2 * weights.values_of_layers / flops;
  say("");
  if (a.json) {
    std::printf("%s\n", nlohmann::json{{"model", a.model},
                                       {"threads", pool.size()},
                                       {"load_seconds", load},
                                       {"first_token_seconds", first_token},
                                       {"prompt_tokens", a.prompt_tokens},
                                       {"prefill_tokens_per_second", prefill_rate},
                                       {"prefill_share_of_fma_peak", compute_share},
                                       {"decode", decode},
                                       {"decode_share_of_read_bandwidth", memory_share},
                                       {"weight_bytes_per_token", weights.bytes_generating},
                                       {"read_bandwidth", bandwidth},
                                       {"fma_peak", flops},
                                       {"peak_rss_bytes", memory}}
                            .dump()
                            .c_str());
    return;
  }
  std::printf("%s, %d threads\n", a.model.c_str(), pool.size());
  std::printf("load                    %9.1f ms\n", load * 1e3);
  std::printf("first token             %9.1f ms after the start, for a prompt of %td\n", first_token * 1e3,
              short_prompt);
  std::printf("prefill, %5td tokens   %9.1f tokens/s, %.0f %% of the fp32 FMA peak of %.0f GFLOP/s\n", a.prompt_tokens,
              prefill_rate, 100 * compute_share, flops / 1e9);
  for (auto const& d : decode)
    std::printf("decode, batch %5td     %9.1f tokens/s\n", d["batch"].get<index_t>(),
                d["tokens_per_second"].get<double>());
  if (decode_alone > 0)
    std::printf("decode, batch 1, reads  %9.1f MB of weights per token: %.0f %% of what memory gives, %.1f GB/s\n",
                weights.bytes_generating / 1e6, 100 * memory_share, bandwidth / 1e9);
  std::printf("peak memory             %9.1f MiB\n", memory / 1048576);
}

}  // namespace

int main(int argc, char** argv) try {
  arguments a;
  CLI::App app{"Measures inference with a model: loading, first token, prompts, generation by one and by many."};
  app.add_option("--model", a.model, "a .gguf file, a folder with config.json and safetensors, or a checkpoint")
      ->required();
  app.add_option("--threads", a.threads, "0: all processors")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--prompt-tokens", a.prompt_tokens, "of the prompt whose reading is measured")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--new-tokens", a.new_tokens, "steps of generation that are measured")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--batches", a.batches, "how many sequences generate together")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  CLI11_PARSE(app, argc, argv);
  bench(a);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "bench_infer: %s\n", e.what());
  return 1;
}
