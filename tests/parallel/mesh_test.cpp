// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
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

namespace {

using namespace tenon;
constexpr gpt2_config gpt_shape{.layers = 3, .width = 48, .heads = 3, .context = 40, .vocabulary = 67};
constexpr llama_config llama_shape{
    .layers = 3, .width = 48, .heads = 6, .kv_heads = 2, .hidden = 80, .context = 40, .vocabulary = 67};
using gpt = models::gpt2<gpt_shape>;
using llama = models::llama<llama_shape>;
constexpr index_t length = 32;
/// Shapes whose heads may be cut over ranks.
constexpr gpt2_config cut_gpt_shape{
    .layers = 2, .width = 128, .heads = 8, .context = 40, .vocabulary = 67, .dropout = 0.1f};
constexpr llama_config cut_llama_shape{
    .layers = 2, .width = 128, .heads = 8, .kv_heads = 4, .hidden = 80, .context = 40, .vocabulary = 67};
using cut_gpt = models::gpt2<cut_gpt_shape>;
using cut_llama = models::llama<cut_llama_shape>;
using cut_mixtral = models::mixtral<mixtral_config{
    .layers = 1, .width = 64, .heads = 4, .kv_heads = 2, .hidden = 80, .context = 40, .vocabulary = 67, .experts = 4}>;
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
bool operator==(outcome const& a, outcome const& b) {
  auto const same = [](auto const& x, auto const& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(x[0])) == 0;
  };
  return same(a.parameters, b.parameters) && same(a.numbers, b.numbers);
}

train_options options(index_t batch, index_t accumulate, comm::mesh_shape mesh = {}) {
  return {.batch = batch,
          .accumulate = accumulate,
          .sequence_length = length,
          .learning_rate = 3e-3f,
          .threads = 1,
          .mesh = mesh};
}
template <class Trainer>
outcome run_steps(Trainer& t, index_t batch) {
  outcome o;
  for (std::uint32_t i = 0; i < 3; ++i) {
    text const b(batch, i);
    auto const r = t.step(b.tokens, b.targets);
    o.numbers.insert(o.numbers.end(), {r.loss, r.auxiliary_loss, r.grad_norm});
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
  return run_steps(t, batch);
}
/// Trains on a mesh and checks that all ranks say the same.
template <class Model, class... Ps>
outcome on_mesh(comm::mesh_shape mesh, index_t batch, index_t accumulate) {
  std::vector<outcome> all(std::size_t(mesh.size()));
  comm::threads::run(int(mesh.size()), [&](comm::threads& world) {
    trainer<Model, comm::threads, Ps...> t{world, options(batch, accumulate, mesh)};
    all[std::size_t(world.rank())] = run_steps(t, batch);
  });
  for (auto const& o : all) CHECK(o == all[0]);
  return all[0];
}

}  // namespace

TEST_CASE_TEMPLATE("data parallelism and every stage of ZeRO give the bits of one rank", Model, gpt, llama) {
  auto const expected = alone<Model>(24);
  for (int ranks : {1, 2, 3, 4, 6, 8})
    for (index_t accumulate : {1, 2, 3}) {
      CAPTURE(ranks);
      CAPTURE(accumulate);
      index_t const micro = 24 / ranks / accumulate;
      if (24 % (ranks * accumulate) != 0 || (micro & (micro - 1)) != 0) continue;
      CHECK(expected == on_mesh<Model, data<dynamic>>({.data = ranks}, 24, accumulate));
      CHECK(expected == on_mesh<Model, data<dynamic>, zero<1>>({.data = ranks}, 24, accumulate));
      if (accumulate > 1 && ((ranks * micro) & (ranks * micro - 1)) != 0) continue;
      CHECK(expected == on_mesh<Model, data<dynamic>, zero<2>>({.data = ranks}, 24, accumulate));
      CHECK(expected == on_mesh<Model, data<dynamic>, zero<3>>({.data = ranks}, 24, accumulate));
    }
}

TEST_CASE("mixed precision, memory policies and other update rules on a mesh") {
  auto const bf16 = alone<gpt, precision::bf16_mixed>(8);
  CHECK(bf16 == on_mesh<gpt, precision::bf16_mixed, data<4>>({.data = 4}, 8, 1));
  CHECK(bf16 == on_mesh<gpt, precision::bf16_mixed, data<4>, zero<1>>({.data = 4}, 8, 2));
  CHECK(bf16 == on_mesh<gpt, precision::bf16_mixed, data<4>, zero<3>>({.data = 4}, 8, 2));
  auto const muon = alone<gpt, optimizer::muon>(8);
  CHECK(muon == on_mesh<gpt, optimizer::muon, memory::recompute_full, data<4>, zero<1>>({.data = 4}, 8, 1));
  CHECK(muon == on_mesh<gpt, optimizer::muon, memory::recompute_selective, data<2>, zero<3>>({.data = 2}, 8, 2));
}

TEST_CASE_TEMPLATE("tensor parallelism gives the bits of one rank", Model, cut_gpt, cut_llama) {
  auto const expected = alone<Model>(8);
  for (int ranks : {2, 4}) {
    CAPTURE(ranks);
    CHECK(expected == on_mesh<Model, tensor<dynamic>>({.tensor = ranks}, 8, 1));
    CHECK(expected == on_mesh<Model, tensor<dynamic>>({.tensor = ranks}, 8, 2));
  }
  comm::mesh_shape const square{.data = 2, .tensor = 2};
  for (index_t accumulate : {1, 2}) {
    CAPTURE(accumulate);
    CHECK(expected == on_mesh<Model, tensor<2>, data<dynamic>>(square, 8, accumulate));
    CHECK(expected == on_mesh<Model, tensor<2>, data<dynamic>, zero<1>>(square, 8, accumulate));
    CHECK(expected == on_mesh<Model, tensor<2>, data<dynamic>, zero<3>>(square, 8, accumulate));
  }
}

TEST_CASE_TEMPLATE("tokens cut between blocks give the bits of one rank", Model, cut_gpt, cut_llama) {
  auto const expected = alone<Model>(8);
  CHECK(expected == on_mesh<Model, tensor<dynamic>, sequence_parallel>({.tensor = 2}, 8, 2));
  CHECK(expected == on_mesh<Model, tensor<dynamic>, sequence_parallel>({.tensor = 4}, 8, 1));
  CHECK(expected == on_mesh<Model, tensor<2>, sequence_parallel, data<2>, zero<1>>({.data = 2, .tensor = 2}, 8, 2));
  CHECK(expected == on_mesh<Model, tensor<2>, sequence_parallel, data<2>, zero<3>>({.data = 2, .tensor = 2}, 8, 1));
  CHECK_THROWS_WITH_AS((on_mesh<Model, tensor<dynamic>, sequence_parallel>({.tensor = 4}, 8, 4)),
                       doctest::Contains("cuts a micro-batch of 64 tokens in leaves of 32 over 4 ranks"),
                       argument_error);
}

TEST_CASE_TEMPLATE("what one mesh has read another takes and goes on", Model, cut_gpt, cut_llama) {
  text const b(4, 7);
  trainer<Model> one{options(4, 1)};
  one.step(b.tokens, b.targets);
  auto const copy_into = [&](auto& other) {
    for (auto kind : {state_kind::parameters, state_kind::first, state_kind::second})
      for (auto const& spec : one.parameter_list()) {
        std::vector<float> values(std::size_t(spec.size()));
        one.read(kind, spec, values);  // alone: no collective
        other.write(kind, spec, values);
      }
    other.progress().steps = 1, other.progress().samples = 4;
  };
  std::vector<outcome> all(4);
  auto const take_over = [&]<class... Ps>(policies<Ps...>, comm::mesh_shape mesh) {
    std::mutex turn;
    comm::threads::run(4, [&](comm::threads& world) {
      trainer<Model, comm::threads, Ps...> t{world, options(4, 1, mesh)};
      {
        std::lock_guard lock(turn);
        copy_into(t);
      }
      t.restored();
      all[std::size_t(world.rank())] = run_steps(t, 4);
    });
    return all;
  };
  auto const by_four = take_over(policies<tensor<4>>{}, {.tensor = 4});
  auto const by_square = take_over(policies<tensor<2>, data<2>, zero<3>>{}, {.data = 2, .tensor = 2});
  auto const expected = run_steps(one, 4);
  for (auto const& results : {by_four, by_square})
    for (auto const& o : results) CHECK(o == expected);
}

TEST_CASE("tensor parallelism: eight ranks, experts, an untied head, mixed precision, memory policies") {
  CHECK(alone<cut_gpt>(4) == on_mesh<cut_gpt, tensor<8>>({.tensor = 8}, 4, 1));
  CHECK(alone<cut_mixtral>(4) == on_mesh<cut_mixtral, tensor<2>, data<2>, zero<1>>({.data = 2, .tensor = 2}, 4, 1));
  auto const untied = alone<untied_gpt, precision::bf16_mixed>(4);
  CHECK(untied == on_mesh<untied_gpt, precision::bf16_mixed, tensor<4>>({.tensor = 4}, 4, 1));
  CHECK(untied == on_mesh<untied_gpt, precision::bf16_mixed, tensor<4>, sequence_parallel>({.tensor = 4}, 4, 1));
  CHECK(untied == on_mesh<untied_gpt, precision::bf16_mixed, memory::recompute_full, tensor<2>, data<2>, zero<1>>(
                      {.data = 2, .tensor = 2}, 4, 2));
  auto const selective = alone<untied_gpt, precision::bf16_mixed, memory::recompute_selective>(4);
  CHECK(selective ==
        on_mesh<untied_gpt, precision::bf16_mixed, memory::recompute_selective, tensor<2>, data<2>, zero<3>>(
            {.data = 2, .tensor = 2}, 4, 1));
}
