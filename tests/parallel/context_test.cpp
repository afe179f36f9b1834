// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
#include <parallel/on_mesh.hpp>

using namespace on_mesh_test;

TEST_CASE("context parallelism gives the bits of one rank") {
  constexpr llama_config longer{.layers = 2,
                                .width = 64,
                                .heads = 8,
                                .kv_heads = 4,
                                .hidden = 64,
                                .context = 256,
                                .vocabulary = 67,
                                .dropout = 0.1f};
  using model = models::llama<longer>;
  auto const run = [&]<class... Ps>(comm::mesh_shape mesh, index_t accumulate, policies<Ps...>*) {
    auto o = options(4, accumulate, mesh);
    o.sequence_length = 256;
    std::vector<outcome> all(std::size_t(mesh.size()));
    comm::threads::run(int(mesh.size()), [&](comm::threads& world) {
      trainer<model, comm::threads, Ps...> t{world, o};
      outcome& out = all[std::size_t(world.rank())];
      text const batch(32, 1);  // as 4 sequences of 256
      for (int i = 0; i < 2; ++i) {
        auto const r = t.step(batch.tokens, batch.targets);
        out.numbers.insert(out.numbers.end(), {r.loss, r.grad_norm});
      }
      out.numbers.push_back(t.evaluate(batch.tokens, batch.targets));
      std::vector<float> logits(67);
      t.next_logits(std::span(batch.tokens).first(100), logits);
      out.parameters = t.values();
      out.parameters.insert(out.parameters.end(), logits.begin(), logits.end());
    });
    for (auto const& o : all) CHECK(o == all[0]);
    return all[0];
  };
  using alone_policies = policies<data<dynamic>>;
  auto const expected = run({}, 1, static_cast<alone_policies*>(nullptr));
  for (int ranks : {2, 4}) {
    comm::mesh_shape const mesh{.context = ranks};
    CHECK(expected == run(mesh, 4, static_cast<policies<context<dynamic, all_to_all>>*>(nullptr)));
    CHECK(expected == run(mesh, 4, static_cast<policies<context<dynamic, ring>>*>(nullptr)));
    CHECK(expected == run({.context = ranks, .pipeline = 2}, 4,
                          static_cast<policies<context<dynamic, ring>, pipeline<2, zero_bubble>>*>(nullptr)));
    CHECK(expected ==
          run({.tensor = 2, .context = ranks}, 4, static_cast<policies<context<dynamic, ring>, tensor<2>>*>(nullptr)));
    CHECK(expected == run({.data = 2, .context = ranks}, 2,
                          static_cast<policies<context<dynamic, all_to_all>, data<2>, zero<1>>*>(nullptr)));
    CHECK(expected == run({.data = 4, .context = ranks}, 1,
                          static_cast<policies<context<dynamic, all_to_all>, data<4>, zero<3>>*>(nullptr)));
  }
  policies<context<dynamic, all_gather>, tensor<2>>* const gathers = nullptr;
  CHECK(expected == run({.tensor = 2, .context = 2}, 4, gathers));
  CHECK_THROWS_WITH_AS(run({.tensor = 2, .context = 4}, 4, gathers), doctest::Contains("by all_gather"),
                       argument_error);
}
