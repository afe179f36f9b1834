// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
#include <parallel/on_mesh.hpp>

using namespace on_mesh_test;

TEST_CASE_TEMPLATE("data parallelism and every stage of ZeRO give the bits of one rank", Model, gpt, llama, mixtral) {
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
      if (ranks % 2 == 0)
        CHECK(expected == on_mesh<Model, data<dynamic>, zero<3, hybrid<2>>>({.data = ranks}, 24, accumulate));
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
