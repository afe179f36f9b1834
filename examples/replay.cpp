// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_parts train_gpt_kernels train_gpt_threads_lines
// Does steps of a run with receipts again, on any mesh, and finds the first thing that is not the same:
//   replay --mesh data=1 --out run [the run's other arguments]
#include <cstdio>
#include <exception>
#include <filesystem>
#include <random>

#include <tenon/comm/threads.hpp>
#include <tenon/train/receipt.hpp>

#include "train_gpt/lines.hpp"

namespace {
namespace fs = std::filesystem;
using tenon::index_t;

/// A folder that goes away with this.
struct temporary_folder {
  fs::path path = fs::temp_directory_path() / ("tenon-replay-" + std::to_string(std::random_device()()));
  ~temporary_folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

/// The newest checkpoint of at most `step` steps; empty: there is none.
fs::path checkpoint_before(fs::path const& run, index_t step, index_t& found) {
  fs::path newest;
  for (auto const& c : tenon::list_checkpoints(run))
    if (index_t const n = std::stol(c.filename().string().substr(5)); n <= step) newest = c, found = n;
  return newest;
}

int replay(train_gpt::arguments a) {
  using tenon::comm::threads;
  if (a.out.empty()) throw tenon::argument_error("replay needs the folder of a run. Fix: add --out FOLDER.");
  fs::path const run = a.out, receipts = run / "receipts";
  auto const steps = tenon::receipt::recorded_steps(receipts);
  if (a.to == 0) a.to = steps.second;
  if (a.from == 0) a.from = steps.first + 1;
  if (a.from > a.to || a.from <= steps.first || a.to > steps.second)
    throw tenon::argument_error("replay: steps " + std::to_string(a.from) + " to " + std::to_string(a.to) +
                                " are asked for, and there are receipts of " + std::to_string(steps.first + 1) +
                                " to " + std::to_string(steps.second) + ". Fix: steps of these.");
  index_t begin = 0;
  a.start = checkpoint_before(run, a.from - 1, begin).string();
  if (begin < steps.first)
    throw tenon::argument_error("replay: receipts begin behind step " + std::to_string(steps.first) +
                                ", and there is no checkpoint from there to step " + std::to_string(a.from - 1) +
                                ". Fix: a later step, or keep more checkpoints (--keep-every).");
  if (!a.json)
    std::printf("steps %td to %td again on %s, from %s\n", begin + 1, a.to, to_string(a.mesh).c_str(),
                begin ? a.start.c_str() : "the seed");
  temporary_folder const own;
  a.out.clear(), a.flip.clear();
  a.resume = a.receipts = false;
  a.sample_tokens = 0;
  a.receipts_folder = own.path.string();
  threads::run(int(a.mesh.size()), [&](threads& world) { train_gpt::train(world, a); });
  auto const c = tenon::receipt::compare(receipts, own.path, begin + 1, a.to);
  if (a.json) {
    nlohmann::ordered_json result{{"agrees", !c.first},
                                  {"steps", c.steps},
                                  {"hashes", c.hashes},
                                  {"ranks_compared", c.ranks}};
    if (auto const& d = c.first)
      result.update({{"step", d->step},
                     {"ranks", d->ranks},
                     {"event", d->event},
                     {"micro_batch", d->micro_batch},
                     {"layer", d->layer},
                     {"tensor", d->tensor},
                     {"expected", d->expected},
                     {"got", d->got},
                     {"sentence", d->sentence}});
    std::printf("%s\n", result.dump().c_str());
  } else if (c.first) {
    std::printf("%s\n", c.first->sentence.c_str());
    if (c.first->ranks.empty()) std::printf("On the run's own mesh replay also finds the rank and the layer.\n");
  } else {
    std::printf("%td steps agree in %td hashes%s\n", a.to - begin, c.hashes,
                c.ranks ? ", those of each rank included" : "; those of each rank need the run's own mesh");
  }
  return c.first ? 1 : 0;
}
}  // namespace

int main(int argc, char** argv) try {
  auto const a = train_gpt::read_command_line(
      argc, argv,
      "Does steps of a run with --receipts again, on ranks that are threads, and finds the first thing that is not the "
      "same. Give the run's arguments; --mesh may be another. Returns 0: all agrees, 1: something does not, 2: an "
      "error.",
      tenon::comm::mesh_shape{}, true, true);
  return a ? replay(*a) : 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "replay: %s\n", e.what());
  return 2;
}
