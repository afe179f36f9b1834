// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
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

TEST_CASE("tensor parallelism: eight ranks, an untied head, mixed precision, memory policies") {
  CHECK(alone<cut_gpt>(4) == on_mesh<cut_gpt, tensor<8>>({.tensor = 8}, 4, 1));
  auto const untied = alone<untied_gpt, precision::bf16_mixed>(4);
  CHECK(untied == on_mesh<untied_gpt, precision::bf16_mixed, tensor<4>>({.tensor = 4}, 4, 1));
  CHECK(untied == on_mesh<untied_gpt, precision::bf16_mixed, memory::recompute_full, tensor<2>, data<2>, zero<1>>(
                      {.data = 2, .tensor = 2}, 4, 2));
  auto const selective = alone<untied_gpt, precision::bf16_mixed, memory::recompute_selective>(4);
  CHECK(selective ==
        on_mesh<untied_gpt, precision::bf16_mixed, memory::recompute_selective, tensor<2>, data<2>, zero<3>>(
            {.data = 2, .tensor = 2}, 4, 1));
}
