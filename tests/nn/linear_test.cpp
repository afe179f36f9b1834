// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "directional.hpp"

#include <tenon/nn/linear.hpp>

using namespace tenon;

TEST_CASE("linear: gradients, with the output in one sum or in several") {
  directional::harness<> h(2, 9);
  for (bool several : {false, true}) {
    nn::linear const block{13,
                           {{"a", 5}, {"b", 12}},
                           true,
                           16,
                           several ? std::vector<ops::k_piece>{{5, 0}, {12, 16}} : std::vector<ops::k_piece>{}};
    CHECK(block.out() == 17);
    directional::check(
        h, block, 13, 17, [&](auto& pass, auto const& p, auto x, auto y) { block.forward(pass, p, x, y); },
        [&](auto& pass, auto const& p, auto const& g, auto x, auto dy, auto dx) {
          block.backward(pass, p, g, x, dy, dx);
        });
  }
}

TEST_CASE("linear: fused epilogue adds bias, activation and residual in that order") {
  directional::harness<> h(1, 3);
  nn::linear const block{2, {{"a", 2}}, true};
  std::vector<float> parameters(64, 0.0f), x{1, 2, 3, 4, 5, 6}, y(6, NAN), pre(6, NAN), residual{1, 1, 1, 1, 1, 1};
  nn::binder<float> bind(parameters.data());
  auto const w = block.bind(bind);
  w.weight(0, 0) = 1, w.weight(1, 1) = -1, w.bias[0] = 0.5f, w.bias[1] = 1;
  nn::binder<float const> read(parameters.data());
  auto pass = h.pass();
  block.forward(pass, block.bind(read), matrix<float const>(x.data(), 3, 2), matrix(y.data(), 3, 2),
                {.residual = matrix<float const>(residual.data(), 3, 2),
                 .activation = ops::activation_kind::relu,
                 .pre_activation = matrix(pre.data(), 3, 2)});
  CHECK(pre == std::vector<float>{1.5f, -1, 3.5f, -3, 5.5f, -5});
  CHECK(y == std::vector<float>{2.5f, 1, 4.5f, 1, 6.5f, 1});
}
