// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
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

#include <tenon/models/gpt2.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/trainer.hpp>

namespace {

using namespace tenon;

template <class F>
double seconds(F&& f) {
  auto const begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
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
  std::vector<double> disk, written, copied, plain, saving, verified, loaded;
  for (long round = 0; round < flag["rounds"]; ++round) {
    // Bytes of the same kind, from memory: the disk may well be faster with zeros.
    auto const source = saved / "optimizer.safetensors";
    std::string const dd = "dd if='" + source.string() + "' of='" + file.string() + "' bs=1M conv=fsync status=none";
    disk.push_back(double(std::filesystem::file_size(source)) / seconds([&] {
                     if (std::system(dd.c_str()) != 0)
                       throw file_error(file.string(), "dd failed. Fix: free some space.");
                   }));
    std::filesystem::remove(file);
    save();
    written.push_back(bytes / seconds([&] { writer.wait(); }));
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
      "%.1f million parameters, %.0f MB: dd %.0f MB/s, written %.0f MB/s (%.0f %%), verified %.0f MB/s, verified and "
      "loaded %.0f MB/s\n%ld steps take %.2f s, with a checkpoint %.2f s: %.1f %%; the copy alone %.3f s\n",
      bytes / 12e6, bytes / 1e6, median(disk) / 1e6, median(written) / 1e6, 100 * median(written) / median(disk),
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
