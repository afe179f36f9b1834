// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
#include <parallel/on_mesh.hpp>

using namespace on_mesh_test;

TEST_CASE_TEMPLATE("every pipeline schedule gives the bits of one rank", Model, gpt, llama, mixtral) {
  auto const expected = alone<Model>(24);
  for (int stages : {1, 2, 3})
    for (index_t accumulate : {3, 6, 12}) {
      CAPTURE(stages);
      CAPTURE(accumulate);
      comm::mesh_shape const mesh{.pipeline = stages};
      CHECK(expected == on_mesh<Model, pipeline<dynamic, gpipe>>(mesh, 24, accumulate));
      CHECK(expected == on_mesh<Model, pipeline<dynamic>>(mesh, 24, accumulate));
      CHECK(expected == on_mesh<Model, pipeline<dynamic, zero_bubble>>(mesh, 24, accumulate));
    }
  CHECK(expected == on_mesh<Model, pipeline<dynamic, zero_bubble>, memory::recompute_full>({.pipeline = 3}, 24, 6));
  CHECK(expected ==
        on_mesh<Model, pipeline<dynamic, zero_bubble>, memory::recompute_selective>({.pipeline = 2}, 24, 6));
  CHECK(expected == on_mesh<Model, pipeline<dynamic>, data<2>, zero<1>>({.data = 2, .pipeline = 3}, 24, 3));
}

TEST_CASE("chunks of an interleaved schedule, and what the first and the last stage share") {
  constexpr gpt2_config deep{.layers = 6, .width = 48, .heads = 3, .context = 40, .vocabulary = 67};
  using model = models::gpt2<deep>;
  auto const expected = alone<model>(16);
  for (int stages : {1, 2}) {
    comm::mesh_shape const mesh{.pipeline = stages};
    CHECK(expected == on_mesh<model, pipeline<dynamic, interleaved<2>>>(mesh, 16, 4));
    CHECK(expected == on_mesh<model, pipeline<dynamic, interleaved<3>>>(mesh, 16, 2));
  }
  CHECK(expected == on_mesh<model, pipeline<dynamic, interleaved<2>>, data<2>>({.data = 2, .pipeline = 2}, 16, 4));
}
