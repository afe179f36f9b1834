// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file Trains two small models for a few steps and prints one hash of all their parameters. one_hash_test.cmake
/// builds it by several compilers and flags: the number may not change (contract I).
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <tenon/exec/host/simd.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/train/trainer.hpp>

namespace {

using namespace tenon;

constexpr index_t samples = 3, length = 37, vocabulary = 67;
using gpt = models::gpt2<gpt2_config{.layers = 2, .width = 48, .heads = 3, .context = 40, .vocabulary = vocabulary}>;
using llama = models::llama<llama_config{
    .layers = 2, .width = 48, .heads = 6, .kv_heads = 2, .hidden = 80, .context = 40, .vocabulary = vocabulary}>;

template <class Model, class... Ps>
std::uint64_t train_and_hash(std::uint64_t hash) {
  trainer<Model, Ps...> t{{.batch = samples, .sequence_length = length, .learning_rate = 3e-3f, .threads = 2}};
  std::vector<std::int32_t> tokens, targets;
  for (std::uint32_t i = 0; i < samples * length; ++i) {
    tokens.push_back(std::int32_t(i * i * 7u % vocabulary));
    targets.push_back(std::int32_t((i * i * 7u + 3u) % vocabulary));
  }
  for (int step = 0; step < 3; ++step) t.step(tokens, targets);
  for (float const p : t.values()) {  // FNV-1a
    std::uint32_t bits;
    std::memcpy(&bits, &p, sizeof bits);
    hash = (hash ^ bits) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace

int main() {
  std::uint64_t hash = 0xcbf29ce484222325u;
  hash = train_and_hash<llama, optimizer::muon, memory::recompute_selective>(hash);
  hash = train_and_hash<gpt, precision::bf16_mixed>(hash);
  std::printf("%016" PRIx64 " %s\n", hash, simd::instruction_set);
}
