// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
#include <parallel/on_mesh.hpp>

using namespace on_mesh_test;

TEST_CASE("expert parallelism gives the bits of one rank") {
  auto const expected = alone<mixtral>(24);
  CHECK(expected == on_mesh<mixtral, expert<dynamic>>({.expert = 2}, 24, 3));
  CHECK(expected == on_mesh<mixtral, expert<dynamic>>({.expert = 4}, 24, 3));
  CHECK(expected == on_mesh<mixtral, expert<dynamic>, data<dynamic>>({.data = 3, .expert = 2}, 24, 1));
  CHECK(expected == on_mesh<mixtral, expert<2>, data<2>, zero<1>>({.data = 2, .expert = 2}, 24, 3));
  CHECK(expected == on_mesh<mixtral, expert<2>, data<2>, zero<3>>({.data = 2, .expert = 2}, 24, 6));
  CHECK(expected == on_mesh<mixtral, expert<2>, pipeline<3, zero_bubble>>({.pipeline = 3, .expert = 2}, 24, 6));
}

TEST_CASE("expert parallelism: mixed precision, tensor ranks, memory policies") {
  using model = models::mixtral<mixtral_config{.layers = 2,
                                               .width = 128,
                                               .heads = 8,
                                               .kv_heads = 4,
                                               .hidden = 64,
                                               .context = 40,
                                               .vocabulary = 67,
                                               .experts = 4,
                                               .experts_per_token = 2,
                                               .capacity_factor = 1.25f}>;
  auto const expected = alone<model, precision::bf16_mixed>(8);
  CHECK(expected == on_mesh<model, precision::bf16_mixed, expert<2>, tensor<2>>({.tensor = 2, .expert = 2}, 8, 2));
  CHECK(expected == on_mesh<model, precision::bf16_mixed, expert<4>, memory::recompute_full, data<2>, zero<2>>(
                        {.data = 2, .expert = 4}, 8, 1));
}
