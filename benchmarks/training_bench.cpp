// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_kernels
// One training loop of a GPT-2 shape on random tokens, for benchmarks/training.py. Prints one JSON object.
//   training_bench --layers=6 --width=384 --heads=6 --context=256 --vocabulary=256 --batch=8 --steps=8 --threads=2 [--table] [--fast] [--receipts]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <tenon/exec/host/peak.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/profile/table.hpp>
#include <tenon/train/receipt.hpp>
#include <tenon/train/trainer.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include "kernels.hpp"

namespace {

using namespace tenon;

template <Arithmetic Order>
void run(std::map<std::string, long>& flag) {
  trainer<models::gpt2<>, memory::recompute_selective, Order> t{
      {.layers = flag["layers"],
       .width = flag["width"],
       .heads = flag["heads"],
       .context = flag["context"],
       .vocabulary = flag["vocabulary"]},
      {.batch = flag["batch"], .threads = int(flag["threads"])}};
  auto const n = std::size_t(flag["batch"] * flag["context"]);
  random_stream const random(1, "tokens");
  std::vector<std::int32_t> tokens(n), targets(n);
  for (std::size_t i = 0; i < n; ++i) {
    tokens[i] = std::int32_t(random.word(0, i) % std::uint32_t(flag["vocabulary"]));
    targets[i] = std::int32_t(random.word(0, i + 1) % std::uint32_t(flag["vocabulary"]));
  }
  t.step(tokens, targets);  // warms up
  profile::recorder recorder;
  if (flag["table"]) t.context().profiler = &recorder;
  std::vector<double> seconds, peaks, with_receipts;
  double loss = 0;
  auto const time = [](std::vector<double>& to, auto&& f) {
    auto const begin = std::chrono::steady_clock::now();
    f();
    to.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  };
  auto const receipts = std::filesystem::temp_directory_path() / ("training_bench-" + std::to_string(::getpid()));
  for (long s = 0; s < flag["steps"]; ++s) {
    time(seconds, [&] { loss = t.step(tokens, targets).loss; });
    if (flag["receipts"]) {  // by turns
      receipt::keeper keeper{train::any_trainer{t}, receipts};
      time(with_receipts, [&] {
        auto const r = t.step(tokens, targets);
        keeper.write({r.loss, r.grad_norm});
      });
    }
    peaks.push_back(exec::measure_fma_peak(t.context().pool()));  // between the steps: under the same load and clock
  }
  std::filesystem::remove_all(receipts);
  if (flag["receipts"]) {
    std::vector<double> ratios;
    for (std::size_t s = 0; s < seconds.size(); ++s) ratios.push_back(with_receipts[s] / seconds[s]);
    std::sort(ratios.begin(), ratios.end());
    std::printf("receipts cost %.1f %% of a step (median of %zu pairs)\n", 100 * (ratios[ratios.size() / 2] - 1),
                ratios.size());
  }
  std::sort(seconds.begin(), seconds.end());
  std::sort(peaks.begin(), peaks.end());
  double const typical = seconds[seconds.size() / 2], peak = peaks[peaks.size() / 2];
  if (flag["table"])
    std::fputs(profile::table(recorder, {peak, exec::measure_read_bandwidth(t.context().pool())}).c_str(), stdout);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "{\"tokens_per_second\":%.1f,\"flops_utilization\":%.4f,\"peak_flops\":%.4g,\"peak_rss_bytes\":%ld,\"loss\":%.6f}"
      "\n",
      double(n) / typical, t.step_flops() / typical / peak, peak, usage.ru_maxrss * 1024, loss);
}

}  // namespace

int main(int argc, char** argv) try {
  std::map<std::string, long> flag{{"layers", 6},       {"width", 384}, {"heads", 6},   {"context", 256},
                                   {"vocabulary", 256}, {"batch", 8},   {"steps", 8},   {"threads", 2},
                                   {"table", 0},        {"fast", 0},    {"receipts", 0}};
  for (int i = 1; i < argc; ++i) {
    std::string const word = argv[i];
    auto const equals = word.find('=');
    std::string const name = word.substr(0, equals).substr(std::min<std::size_t>(2, word.size()));
    if (!flag.count(name)) return std::fprintf(stderr, "training_bench: %s is unknown\n", word.c_str()), 2;
    flag[name] = equals == std::string::npos ? 1 : std::stol(word.substr(equals + 1));
  }
  if (flag["fast"]) run<arithmetic::fast>(flag);
  else run<arithmetic::bitwise>(flag);
} catch (std::exception const& e) {
  std::fprintf(stderr, "training_bench: %s\n", e.what());
  return 1;
}
