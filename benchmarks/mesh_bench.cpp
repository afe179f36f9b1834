// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_kernels
// Two ranks as threads against one rank with two threads, and `bitwise` against `fast` on the
// same mesh (fast sums are single chains, which tensor ranks cannot share): steps of a
// GPT-2 shape on random tokens, the configurations by turns. Prints a table of medians.
//   mesh_bench --layers=6 --width=384 --heads=6 --context=256 --vocabulary=256 --batch=8 --steps=3 --rounds=3
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>

#include "kernels.hpp"

namespace {

using namespace tenon;
using flags = std::map<std::string, long>;

struct batch {
  std::vector<std::int32_t> tokens, targets;
  explicit batch(flags& flag) {
    random_stream const random(1, "tokens");
    for (std::uint64_t i = 0; i < std::uint64_t(flag["batch"] * flag["context"]); ++i) {
      tokens.push_back(std::int32_t(random.word(0, i) % std::uint32_t(flag["vocabulary"])));
      targets.push_back(std::int32_t(random.word(0, i + 1) % std::uint32_t(flag["vocabulary"])));
    }
  }
};
template <class Trainer>
void time_steps(Trainer& t, flags& flag, std::vector<double>& seconds) {
  batch const b(flag);
  t.step(b.tokens, b.targets);  // warms up
  for (long s = 0; s < flag["steps"]; ++s) {
    auto const begin = std::chrono::steady_clock::now();
    t.step(b.tokens, b.targets);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
}
gpt2_config shape(flags& flag) {
  return {.layers = flag["layers"],
          .width = flag["width"],
          .heads = flag["heads"],
          .context = flag["context"],
          .vocabulary = flag["vocabulary"]};
}
void alone(flags& flag, std::vector<double>& seconds) {
  trainer<models::gpt2<>> t{shape(flag), {.batch = flag["batch"], .threads = 2}};
  time_steps(t, flag, seconds);
}
template <Arithmetic Order, class... Axes>
void on_mesh(comm::mesh_shape mesh, flags flag, std::vector<double>& seconds) {
  comm::threads::run(2, [&, flag](comm::threads& world) mutable {
    std::vector<double> mine;
    trainer<models::gpt2<>, comm::threads, Order, Axes...> t{world,
                                                             shape(flag),
                                                             {.batch = flag["batch"], .threads = 1, .mesh = mesh}};
    time_steps(t, flag, mine);
    if (world.rank() == 0) seconds.insert(seconds.end(), mine.begin(), mine.end());
  });
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main(int argc, char** argv) try {
  flags flag{{"layers", 6},       {"width", 384}, {"heads", 6}, {"context", 256},
             {"vocabulary", 256}, {"batch", 8},   {"steps", 3}, {"rounds", 3}};
  for (int i = 1; i < argc; ++i) {
    std::string const word = argv[i];
    auto const equals = word.find('=');
    std::string const name = word.substr(0, equals).substr(std::min<std::size_t>(2, word.size()));
    if (!flag.count(name) || equals == std::string::npos)
      return std::fprintf(stderr, "mesh_bench: %s is unknown\n", word.c_str()), 2;
    flag[name] = std::stol(word.substr(equals + 1));
  }
  std::vector<double> one, data_bitwise, data_fast, zero_bitwise, tensor_bitwise;
  for (long r = 0; r < flag["rounds"]; ++r) {
    alone(flag, one);
    on_mesh<arithmetic::bitwise, data<dynamic>>({.data = 2}, flag, data_bitwise);
    on_mesh<arithmetic::fast, data<dynamic>>({.data = 2}, flag, data_fast);
    on_mesh<arithmetic::bitwise, data<dynamic>, zero<1>>({.data = 2}, flag, zero_bitwise);
    on_mesh<arithmetic::bitwise, tensor<dynamic>>({.tensor = 2}, flag, tensor_bitwise);
  }
  double const tokens = double(flag["batch"] * flag["context"]), base = median(one);
  std::printf("one rank, 2 threads        %8.1f tokens/s\n", tokens / base);
  for (auto const& [name, seconds] : {std::pair("data=2", data_bitwise), std::pair("data=2, zero 1", zero_bitwise),
                                      std::pair("tensor=2", tensor_bitwise)})
    std::printf("%-14s of 2 ranks  %8.1f tokens/s, %.3fx of one rank\n", name, tokens / median(seconds),
                base / median(seconds));
  std::printf("a step of data=2: bitwise takes %.3fx of fast\n", median(data_bitwise) / median(data_fast));
} catch (std::exception const& e) {
  std::fprintf(stderr, "mesh_bench: %s\n", e.what());
  return 1;
}
