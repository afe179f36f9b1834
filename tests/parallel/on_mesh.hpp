// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Small trainers on meshes of threads, and what one rank makes of the same.
#include <doctest/doctest.h>

#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/trainer.hpp>

namespace on_mesh_test {

using namespace tenon;
constexpr gpt2_config gpt_shape{.layers = 3, .width = 48, .heads = 3, .context = 40, .vocabulary = 67};
constexpr llama_config llama_shape{
    .layers = 3, .width = 48, .heads = 6, .kv_heads = 2, .hidden = 80, .context = 40, .vocabulary = 67};
using gpt = models::gpt2<gpt_shape>;
using llama = models::llama<llama_shape>;
constexpr mixtral_config mixtral_shape{.layers = 3,
                                       .width = 48,
                                       .heads = 6,
                                       .kv_heads = 2,
                                       .hidden = 32,
                                       .context = 40,
                                       .vocabulary = 67,
                                       .experts = 4,
                                       .experts_per_token = 2,
                                       .auxiliary_weight = 0.02f};
using mixtral = models::mixtral<mixtral_shape>;
constexpr index_t length = 32;
/// Shapes whose heads may be cut over ranks.
constexpr gpt2_config cut_gpt_shape{
    .layers = 2, .width = 128, .heads = 8, .context = 40, .vocabulary = 67, .dropout = 0.1f};
constexpr llama_config cut_llama_shape{
    .layers = 2, .width = 128, .heads = 8, .kv_heads = 4, .hidden = 80, .context = 40, .vocabulary = 67};
using cut_gpt = models::gpt2<cut_gpt_shape>;
using cut_llama = models::llama<cut_llama_shape>;
using untied_gpt = models::gpt2<gpt2_config{
    .layers = 1, .width = 128, .heads = 8, .context = 40, .vocabulary = 131, .tied = false, .dropout = 0.1f}>;

/// A text with structure, some of whose targets are left out.
struct text {
  std::vector<std::int32_t> tokens, targets;
  text(index_t samples, std::uint32_t seed) {
    for (index_t s = 0; s < samples; ++s) {
      std::uint32_t token = (seed * 5u + std::uint32_t(s) * 7u) % 67u;
      for (index_t i = 0; i < length; ++i) {
        tokens.push_back(std::int32_t(token));
        token = (token * 3u + 1u) % 67u;
        targets.push_back((i + s) % 9 == 4 ? -1 : std::int32_t(token));
      }
    }
  }
};
struct outcome {
  std::vector<float> parameters;
  std::vector<double> numbers;
};
inline bool operator==(outcome const& a, outcome const& b) {
  auto const same = [](auto const& x, auto const& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(x[0])) == 0;
  };
  return same(a.parameters, b.parameters) && same(a.numbers, b.numbers);
}

inline train_options options(index_t batch, index_t accumulate, comm::mesh_shape mesh = {}) {
  return {.batch = batch,
          .accumulate = accumulate,
          .sequence_length = length,
          .learning_rate = 3e-3f,
          .threads = 1,
          .mesh = mesh};
}
template <class Trainer>
outcome train(Trainer& t, index_t batch) {
  outcome o;
  for (std::uint32_t i = 0; i < 3; ++i) {
    text const b(batch, i);
    auto const r = t.step(b.tokens, b.targets);
    o.numbers.insert(o.numbers.end(), {r.loss, r.grad_norm});
  }
  text const b(5, 9);
  o.numbers.push_back(t.evaluate(b.tokens, b.targets));
  std::vector<float> logits(length * 67);
  if (t.config().vocabulary == 67) {
    t.all_logits(std::span(b.tokens).first(length), matrix(logits.data(), length, 67));
    o.numbers.insert(o.numbers.end(), logits.begin(), logits.end());
    t.next_logits(std::span(b.tokens).first(9), std::span(logits).first(67));
    o.numbers.insert(o.numbers.end(), logits.begin(), logits.begin() + 67);
  }
  o.parameters = t.values();
  return o;
}
template <class Model, class... Ps>
outcome alone(index_t batch) {
  trainer<Model, Ps...> t{options(batch, 1)};
  return train(t, batch);
}
/// Trains on a mesh and checks that all ranks say the same.
template <class Model, class... Ps>
outcome on_mesh(comm::mesh_shape mesh, index_t batch, index_t accumulate) {
  std::vector<outcome> all(std::size_t(mesh.size()));
  comm::threads::run(int(mesh.size()), [&](comm::threads& world) {
    trainer<Model, comm::threads, Ps...> t{world, options(batch, accumulate, mesh)};
    all[std::size_t(world.rank())] = train(t, batch);
  });
  for (auto const& o : all) CHECK(o == all[0]);
  return all[0];
}

}  // namespace on_mesh_test
