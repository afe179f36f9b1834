// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/trainer.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace tenon;
constexpr gpt2_config shape{.layers = 3, .width = 48, .heads = 3, .context = 40, .vocabulary = 67};
constexpr gpt2_config large{.layers = 12, .width = 384, .heads = 6, .context = 64, .vocabulary = 256};
using gpt = models::gpt2<shape>;
using in_file = memory::offload<memory::file_backed>;
using all_in_file = memory::offload<memory::file_backed, memory::activations>;

template <class Trainer>
void step(Trainer& t) {
  std::vector<std::int32_t> tokens;
  index_t const count = t.options().batch * t.options().sequence_length;
  for (index_t i = 0; i < count; ++i) tokens.push_back(std::int32_t(i * i % t.config().vocabulary));
  t.step(tokens, tokens);
}
/// All that a trainer has learned after three steps, on every rank of a mesh the same.
template <class... Ps>
std::vector<float> learned(comm::mesh_shape mesh = {}) {
  std::vector<float> all;
  comm::threads::run(int(mesh.size()), [&](comm::threads& world) {
    trainer<gpt, comm::threads, Ps...> t{
        world,
        {.batch = 8, .accumulate = 2, .sequence_length = 32, .learning_rate = 3e-3f, .threads = 1, .mesh = mesh}};
    for (int i = 0; i < 3; ++i) step(t);
    auto mine = t.values();
    for (auto kind : {state_kind::first, state_kind::second}) {
      auto const moments = t.values(kind);
      mine.insert(mine.end(), moments.begin(), moments.end());
    }
    if (world.rank() == 0) all = mine;
  });
  return all;
}
bool same_bits(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Most memory that a process of its own holds in which f runs.
template <class F>
std::size_t peak_memory(F&& f) {
  pid_t const child = ::fork();
  if (child == 0) {
    try {
      f();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  rusage usage{};
  REQUIRE(::wait4(child, &status, 0, &usage) == child);
  REQUIRE(status == 0);
  return std::size_t(usage.ru_maxrss) * 1024;
}

}  // namespace

TEST_CASE("state in a file has the bits of state in memory") {
  auto const fp32 = learned();
  CHECK(same_bits(fp32, learned<in_file>()));
  CHECK(same_bits(fp32, learned<all_in_file>()));
  CHECK(same_bits(fp32, learned<in_file, data<2>>({.data = 2})));
  CHECK(same_bits(fp32, learned<all_in_file, data<2>, zero<3>>({.data = 2})));
  CHECK(same_bits(fp32, learned<all_in_file, pipeline<3, zero_bubble>>({.pipeline = 3})));
  auto const bf16 = learned<precision::bf16_mixed>();
  CHECK(same_bits(bf16, learned<precision::bf16_mixed, in_file>()));
  CHECK(same_bits(bf16, learned<precision::bf16_mixed, all_in_file, data<2>, zero<1>>({.data = 2})));
  CHECK(same_bits(bf16, learned<precision::bf16_mixed, in_file, data<2>, zero<3>>({.data = 2})));
}

TEST_CASE("a checkpoint of offloaded state is one of state in memory") {
  scratch_folder const folder;
  train_options const o{.batch = 4, .threads = 1};
  trainer<gpt, precision::bf16_mixed> kept{o};
  step(kept);
  trainer<gpt, precision::bf16_mixed, in_file> t{o};
  load_checkpoint(t, save_checkpoint(kept, folder.path, "text"), "text");
  step(kept), step(t);
  CHECK(same_bits(kept.values(), t.values()));
  CHECK(same_bits(kept.values(state_kind::second), t.values(state_kind::second)));
}

#if !defined(__SANITIZE_THREAD__)  // which holds memory of its own for all that is touched
TEST_CASE("offloaded state and activations leave memory") {
  auto const run = []<class... Ps>(index_t batch, policies<Ps...>*) {
    return peak_memory([batch] {
      trainer<models::gpt2<large>, Ps...> t{{.batch = batch, .threads = 1}};
      for (int i = 0; i < 2; ++i) step(t);
    });
  };
  auto const mib = [](auto bytes) { return double(bytes) / (1 << 20); };
  double const state = mib(21.3e6 * 2 * sizeof(float));
  auto* const keeps = static_cast<policies<>*>(nullptr);
  auto* const offloads = static_cast<policies<in_file>*>(nullptr);
  auto* const offloads_all = static_cast<policies<all_in_file>*>(nullptr);
  double const kept = mib(run(1, keeps)), offloaded = mib(run(1, offloads));
  MESSAGE("MiB at most: kept " << kept << ", state in a file " << offloaded);
  CHECK(offloaded < kept - 0.7 * state);
  double const kept_32 = mib(run(32, offloads)), offloaded_32 = mib(run(32, offloads_all));
  MESSAGE("MiB at most, 32 sequences: kept " << kept_32 << ", activations in a file " << offloaded_32);
  CHECK(offloaded_32 < kept_32 - 0.5 * (kept_32 - offloaded));
}
#endif

TEST_CASE("a folder to offload to that is not there is named") {
  scratch_folder const folder;
  std::string const none = (folder / "none").string();
  auto const message = message_of([&] { trainer<gpt, in_file>{{.threads = 1, .offload_folder = none}}; });
  CAPTURE(message);
  CHECK(is_one_sentence(message));
  CHECK(message.find(none) != std::string::npos);
}
