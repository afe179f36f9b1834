// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "directional.hpp"

#include <tenon/nn/mlp.hpp>

using namespace tenon;

TEST_CASE_TEMPLATE("mlp: gradients, plain and gated, hidden kept and recomputed", Memory, memory::keep,
                   memory::recompute_selective) {
  directional::harness<Memory> h(2, 7);
  for (bool gated : {false, true}) {
    nn::mlp block{.activation = gated ? ops::activation_kind::silu : ops::activation_kind::gelu_tanh, .gated = gated};
    block.up = {10,
                gated ? std::vector<nn::row_piece>{{"gate", 23}, {"up", 23}} : std::vector<nn::row_piece>{{"up", 23}},
                !gated};
    block.down = {23, {{"down", 10}}, !gated, 16};
    nn::mlp::saved<float> saved;
    directional::check(
        h, block, 10, 10,
        [&](auto& pass, auto const& p, auto x, auto y) {
          block.forward(pass, p, x, matrix_view<float const>{}, y, saved);
        },
        [&](auto& pass, auto const& p, auto const& g, auto x, auto dy, auto dx) {
          block.backward(pass, p, g, saved, x, dy, dx);
        });
  }
}
