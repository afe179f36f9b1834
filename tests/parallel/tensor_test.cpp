// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
#include <mutex>

#include <parallel/on_mesh.hpp>

using namespace on_mesh_test;

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

TEST_CASE("tensor parallelism: eight ranks, experts, an untied head, mixed precision, memory policies") {
  CHECK(alone<cut_gpt>(4) == on_mesh<cut_gpt, tensor<8>>({.tensor = 8}, 4, 1));
  CHECK(alone<cut_mixtral>(4) == on_mesh<cut_mixtral, tensor<2>, data<2>, zero<1>>({.data = 2, .tensor = 2}, 4, 1));
  auto const untied = alone<untied_gpt, precision::bf16_mixed>(4);
  CHECK(untied == on_mesh<untied_gpt, precision::bf16_mixed, tensor<4>>({.tensor = 4}, 4, 1));
  CHECK(untied == on_mesh<untied_gpt, precision::bf16_mixed, memory::recompute_full, tensor<2>, data<2>, zero<1>>(
                      {.data = 2, .tensor = 2}, 4, 2));
  auto const selective = alone<untied_gpt, precision::bf16_mixed, memory::recompute_selective>(4);
  CHECK(selective ==
        on_mesh<untied_gpt, precision::bf16_mixed, memory::recompute_selective, tensor<2>, data<2>, zero<3>>(
            {.data = 2, .tensor = 2}, 4, 1));
}

TEST_CASE_TEMPLATE("tokens cut between blocks give the bits of one rank", Model, cut_gpt, cut_llama) {
  auto const expected = alone<Model>(8);
  CHECK(expected ==
        on_mesh<Model, tensor<2>, sequence_parallel, pipeline<2, zero_bubble>>({.tensor = 2, .pipeline = 2}, 8, 2));
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
      all[std::size_t(world.rank())] = on_mesh_test::train(t, 4);
    });
    return all;
  };
  auto const by_four = take_over(policies<tensor<4>>{}, {.tensor = 4});
  auto const by_square = take_over(policies<tensor<2>, data<2>, zero<3>>{}, {.data = 2, .tensor = 2});
  auto const expected = on_mesh_test::train(one, 4);
  for (auto const& results : {by_four, by_square})
    for (auto const& o : results) CHECK(o == expected);
}
