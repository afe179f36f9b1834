// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "directional.hpp"

#include <cstring>

#include <tenon/nn/combinators.hpp>
#include <tenon/nn/mlp.hpp>
#include <tenon/nn/norm.hpp>

using namespace tenon;

namespace {
using branch = nn::residual<nn::rms_norm, nn::mlp>;
using layer = nn::sequential<branch, branch>;

branch make_branch(float dropout, char const* stream) {
  nn::mlp mlp{};
  mlp.up = {12, {{"up", 20}}, true};
  mlp.down = {20, {{"down", 12}}, true};
  return {"norm", "mlp", {12}, mlp, dropout, stream};
}
nn::repeat<layer> make_layers(float dropout) {
  return {
      "layers",
      {{make_branch(dropout, "a"), make_branch(dropout, "b")}, {make_branch(dropout, "c"), make_branch(dropout, "d")}}};
}
template <class Memory>
void check(float dropout) {
  directional::harness<Memory> h(2, 8);
  auto const block = make_layers(dropout);
  nn::repeat<layer>::saved<float> saved;
  directional::check(
      h, block, 12, 12,
      [&](auto& pass, auto const& p, auto x, auto y) {
        auto const out = block.forward(pass, p, x, saved);
        std::memcpy(y.data(), out.data(), std::size_t(y.size()) * sizeof(float));
      },
      [&](auto& pass, auto const& p, auto const& g, auto, auto dy, auto dx) {
        std::memcpy(dx.data(), dy.data(), std::size_t(dx.size()) * sizeof(float));
        block.backward(pass, p, g, saved, dx);
      });
}
}  // namespace

TEST_CASE_TEMPLATE("residual, sequential and repeat: gradients under every memory policy, with and without dropout",
                   Memory, memory::keep, memory::recompute_selective, memory::recompute_full) {
  check<Memory>(0);
  check<Memory>(0.3f);
}

TEST_CASE("sandwich: gradients") {
  nn::mlp mlp{.gated = true};
  mlp.up = {12, {{"gate", 20}, {"up", 20}}};
  mlp.down = {20, {{"down", 12}}};
  nn::sandwich<nn::rms_norm, nn::mlp> const block{"norm", "mlp", "last", {12}, mlp, {12}};
  decltype(block)::saved<float> saved;
  directional::harness<> h(2, 8);
  directional::check(
      h, block, 12, 12, [&](auto& pass, auto const& p, auto x, auto y) { block.forward(pass, p, x, y, saved); },
      [&](auto& pass, auto const& p, auto const& g, auto, auto dy, auto dx) {
        std::memcpy(dx.data(), dy.data(), std::size_t(dx.size()) * sizeof(float));
        block.backward(pass, p, g, saved, dx);
      });
}

TEST_CASE("parameters are named by their place") {
  std::vector<nn::parameter_spec> specs;
  nn::binder<float const> b(&specs);
  make_layers(0).bind(b);
  CHECK(specs.size() == 2 * 2 * 5);
  CHECK(specs[0].name == "layers.0.norm.weight");
  CHECK(specs[1].name == "layers.0.mlp.up.weight");
  CHECK(specs.back().name == "layers.1.mlp.down.bias");
}
