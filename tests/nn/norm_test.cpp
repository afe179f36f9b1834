// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "directional.hpp"

#include <tenon/nn/norm.hpp>

using namespace tenon;

TEST_CASE_TEMPLATE("norms: gradients", Norm, nn::layer_norm, nn::rms_norm) {
  directional::harness<> h(2, 11);
  Norm const block{.width = 21};
  typename Norm::saved saved;
  directional::check(
      h, block, 21, 21, [&](auto& pass, auto const& p, auto x, auto y) { block.forward(pass, p, x, y, saved); },
      [&](auto& pass, auto const& p, auto const& g, auto x, auto dy, auto dx) {
        block.backward(pass, p, g, saved, x, dy, matrix_view<float const>{}, dx);
      });
}
