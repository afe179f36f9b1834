// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_kernels
// What checkpoints cost: how fast one is written beside `dd`, read and loaded, and what saving takes from the steps.
//   checkpoint_bench FOLDER --layers=6 --width=512 --vocabulary=32768 --context=128 --batch=8 --steps=10 --rounds=5 --threads=2
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <sys/resource.h>

#include <tenon/models/gpt2.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/trainer.hpp>

#include "kernels.hpp"

namespace {

using namespace tenon;

template <class F>
double seconds(F&& f) {
  auto const begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
/// Seconds of processor time that this process has had.
double processor() {
  ::rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  auto const of = [](::timeval const& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return of(used.ru_utime) + of(used.ru_stime);
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void run(io::path const& folder, std::map<std::string, long>& flag) {
  trainer<models::gpt2<>, memory::recompute_selective> t{{.layers = flag["layers"],
                                                          .width = flag["width"],
                                                          .heads = flag["width"] / 64,
                                                          .context = flag["context"],
                                                          .vocabulary = flag["vocabulary"]},
                                                         {.batch = flag["batch"], .threads = int(flag["threads"])}};
  auto const n = std::size_t(flag["batch"] * flag["context"]);
  std::vector<std::int32_t> tokens(n), targets(n);
  for (std::size_t i = 0; i < n; ++i) tokens[i] = targets[i] = std::int32_t(long(i * 7919) % flag["vocabulary"]);
  double const bytes = double(t.parameter_count()) * 3 * sizeof(float);
  auto const file = folder / "dd";
  checkpoint_writer writer(t, folder, "", {1});
  auto const step = [&] { t.step(tokens, targets); };
  io::path saved;
  double copy = 0;
  auto const save = [&] { copy = seconds([&] { saved = writer.save(); }); };
  step();
  save();  // takes the memory
  writer.wait();
  std::vector<double> disk, disk_direct, written, busy, copied, plain, saving, verified, loaded;
  for (long round = 0; round < flag["rounds"]; ++round) {
    verify_checkpoint(saved);  // and so it is in memory
    // Bytes of the same kind: the disk may well be faster with zeros.
    auto const source = saved / "optimizer.safetensors";
    auto const dd = [&](std::string const& flags) {
      std::string const command =
          "dd if='" + source.string() + "' of='" + file.string() + "' conv=fsync status=none " + flags;
      double const took = seconds([&] {
        if (std::system(command.c_str()) != 0) throw file_error(file.string(), "dd failed. Fix: free some space.");
      });
      std::filesystem::remove(file);
      return double(std::filesystem::file_size(source)) / took;
    };
    disk.push_back(dd("bs=1M"));
    disk_direct.push_back(dd("bs=16M oflag=direct"));
    save();
    double const before = processor();
    written.push_back(bytes / seconds([&] { writer.wait(); }));
    busy.push_back(processor() - before);
    verified.push_back(bytes / seconds([&] { verify_checkpoint(saved); }));
    loaded.push_back(bytes / seconds([&] { load_checkpoint(t, saved); }));
    // As many steps without a checkpoint and with one that is written beside them.
    auto const steps = [&] {
      for (long i = 0; i < flag["steps"]; ++i) step();
    };
    plain.push_back(seconds(steps));
    saving.push_back(seconds([&] { save(), steps(); }));
    copied.push_back(copy);
    writer.wait();
  }
  double const without = median(plain), with = median(saving);
  std::printf(
      "%.1f million parameters, %.0f MB: dd %.0f MB/s, dd past the page cache %.0f MB/s\n"
      "written %.0f MB/s (%.0f %%, %.0f %%) with %.2f s of a core, verified %.0f MB/s, verified and loaded %.0f MB/s\n"
      "%ld steps take %.2f s, with a checkpoint %.2f s: %.1f %%; the copy alone %.3f s\n",
      bytes / 12e6, bytes / 1e6, median(disk) / 1e6, median(disk_direct) / 1e6, median(written) / 1e6,
      100 * median(written) / median(disk), 100 * median(written) / median(disk_direct), median(busy),
      median(verified) / 1e6, median(loaded) / 1e6, flag["steps"], without, with, 100 * (with / without - 1),
      median(copied));
}

}  // namespace

int main(int argc, char** argv) try {
  std::map<std::string, long> flag{{"layers", 6}, {"width", 512}, {"vocabulary", 32768}, {"context", 128},
                                   {"batch", 8},  {"steps", 10},  {"rounds", 5},         {"threads", 2}};
  if (argc < 2) throw argument_error("no folder is given. Fix: name one on the disk to be measured.");
  for (int i = 2; i < argc; ++i) {
    std::string const text = argv[i];
    auto const equals = text.find('=');
    if (text.rfind("--", 0) != 0 || equals == std::string::npos || !flag.count(text.substr(2, equals - 2)))
      throw argument_error("'" + text + "' is no flag. Fix: see the top of benchmarks/checkpoint_bench.cpp.");
    flag[text.substr(2, equals - 2)] = std::stol(text.substr(equals + 1));
  }
  run(argv[1], flag);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "checkpoint_bench: %s\n", e.what());
  return 1;
}
