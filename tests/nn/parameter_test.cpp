// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/nn/parameter.hpp>

using namespace tenon;

TEST_CASE("a binder writes down what it hands out, and both agree") {
  std::vector<nn::parameter_spec> specs;
  std::vector<float> buffer(200, 0.0f);
  nn::binder<float> b(buffer.data(), &specs);
  auto const m = b.scope("block", [&] { return b.matrix({{"q", 2}, {"k", 3}}, ".weight", 5, {0.02f}); });
  float* const bias = b.vector("bias", 7, {0, 1});
  CHECK(m.extent(0) == 5);
  CHECK(m.extent(1) == 5);
  REQUIRE(specs.size() == 3);
  CHECK(specs[0].name == "block.q.weight");
  CHECK(specs[1].name == "block.k.weight");
  CHECK(specs[2].name == "bias");
  CHECK(specs[1].offset == 10);  // right behind q: one matrix for the kernel
  CHECK(buffer.data() + specs[0].offset == m.data());
  CHECK(buffer.data() + specs[2].offset == bias);
  CHECK(specs[2].offset == 32);  // tensors of their own begin at a multiple of 16
  CHECK(b.size() == 48);
  CHECK(specs[2].kind == nn::parameter_kind::vector);
}
