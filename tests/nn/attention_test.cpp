// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "directional.hpp"

#include <tenon/nn/attention.hpp>

using namespace tenon;

TEST_CASE("self_attention: gradients with grouped queries, rotary positions, a window, a soft cap and head norms") {
  directional::harness<> h(2, 19);
  for (int more : {0, 1, 2}) {
    nn::self_attention block{.query_heads = 4, .kv_heads = 2, .head_width = 6};
    if (more > 0) block.rope.base = 10000, block.window = 7, block.soft_cap = 5;
    if (more > 1) block.head_norm = nn::rms_norm{6};
    block.qkv = {24, {{"q", 24}, {"k", 12}, {"v", 12}}, false, 0, {{24, 12}, {12, 6}, {12, 6}}};
    block.projection = {24, {{"o", 24}}, true, 12};
    nn::self_attention::saved<float> saved;
    directional::check(
        h, block, 24, 24,
        [&](auto& pass, auto const& p, auto x, auto y) {
          block.forward(pass, p, x, matrix_view<float const>{}, y, saved);
        },
        [&](auto& pass, auto const& p, auto const& g, auto x, auto dy, auto dx) {
          block.backward(pass, p, g, saved, x, dy, dx);
        });
  }
}
