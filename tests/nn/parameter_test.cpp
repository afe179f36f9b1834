// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <span>
#include <utility>
#include <vector>

#include <tenon/nn/parameter.hpp>

using namespace tenon;

TEST_CASE("a binder writes down what it hands out, and both agree") {
  std::vector<nn::parameter_spec> specs;
  std::vector<float> buffer(200, 0.0f);
  nn::binder<float> describe(&specs), b(buffer.data());
  auto const bind = [](nn::binder<float>& to) {
    auto const first = to.scope("block", [&] { return to.matrix({{"q", 2}, {"k", 3}}, ".weight", 5, {0.02f}); });
    return std::pair(first, to.vector("bias", 7, {0, 1}));
  };
  bind(describe);
  auto const [m, bias] = bind(b);
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

TEST_CASE("a binder writes down where buckets begin and which are experts'") {
  std::vector<nn::parameter_spec> specs;
  std::vector<nn::bucket_begin> begins;
  nn::binder<float const> describe(&specs, &begins);
  auto const bind = [](auto& b) {
    b.bucket();
    b.vector("norm", 17, {});
    b.expert_bucket();
    auto* const expert = b.vector("expert", 3, {});
    b.bucket();
    b.vector("head", 1, {});
    return expert;
  };
  bind(describe);
  REQUIRE(begins.size() == 3);
  CHECK(begins[0].at == 0);
  CHECK(begins[1].at == 32);
  CHECK(begins[2].at == 48);
  CHECK(!begins[0].experts);
  CHECK(begins[1].experts);
  CHECK(!begins[2].experts);
  std::vector<float> first(32), second(16), third(16);
  std::vector<float*> const bases{first.data(), second.data(), third.data()};
  nn::binder<float> apart{std::span<float* const>(bases)};
  CHECK(bind(apart) == second.data());
}
