// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "directional.hpp"

#include <algorithm>
#include <cstring>

#include <tenon/core/reduction_order.hpp>
#include <tenon/nn/moe.hpp>

using namespace tenon;

namespace {

nn::moe make_block(index_t experts, index_t slots, float capacity_factor = 0) {
  nn::moe block{.experts = experts,
                .slots = slots,
                .capacity_factor = capacity_factor,
                .router_name = "gate",
                .experts_name = "experts"};
  block.up = {10, {{"w1", 23}, {"w3", 23}}};
  block.down = {23, {{"w2", 10}}, false, 16};
  return block;
}

struct outcome {
  std::vector<float> y, d_x, gradients;
};
bool same_bits(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Both directions over sequences [first, first + count) of `x` and `d_y`, [sequences x length, 10].
template <class Memory = memory::keep>
outcome run(nn::moe const& block, index_t first, index_t count, index_t length, std::vector<float> const& x,
            std::vector<float> const& d_y) {
  directional::harness<Memory> h(count, length);
  nn::binder<float const> describe(static_cast<float const*>(nullptr));
  block.bind(describe);
  auto const parameters = directional::random_values(describe.size(), "parameters", 0.5f);
  index_t const n = h.tokens() * 10, at = first * length * 10;
  outcome o{std::vector<float>(std::size_t(n), NAN), std::vector<float>(std::size_t(n), NAN),
            std::vector<float>(parameters.size(), NAN)};
  nn::binder<float const> read(parameters.data());
  nn::binder<float> write(o.gradients.data());
  auto const p = block.bind(read);
  auto const g = block.bind(write);
  auto pass = h.pass();
  pass.auxiliary_scale = 0.3f;
  nn::moe::saved<float> saved;
  auto const xs = matrix<float const>(x.data() + at, h.tokens(), 10);
  block.forward(pass, p, xs, xs, matrix(o.y.data(), h.tokens(), 10), saved);
  block.backward(pass, p, g, saved, xs, matrix<float const>(d_y.data() + at, h.tokens(), 10),
                 matrix(o.d_x.data(), h.tokens(), 10));
  return o;
}

/// A batch and its sequences one by one: rows are equal to the bit, gradients when added in the tree.
void check_cut(nn::moe const& block, index_t sequences, index_t length, float d_scale = 1) {
  auto const x = directional::random_values(sequences * length * 10, "x", 1),
             d_y = directional::random_values(sequences * length * 10, "dy", d_scale);
  auto const whole = run(block, 0, sequences, length, x, d_y);
  auto const add = [](std::vector<float>& a, std::vector<float> const& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  };
  tree<std::vector<float>> sum;
  std::vector<float> y, d_x;
  for (index_t s = 0; s < sequences; ++s) {
    auto const one = run(block, s, 1, length, x, d_y);
    y.insert(y.end(), one.y.begin(), one.y.end());
    d_x.insert(d_x.end(), one.d_x.begin(), one.d_x.end());
    sum.push(one.gradients, add);
  }
  CHECK(same_bits(whole.y, y));
  CHECK(same_bits(whole.d_x, d_x));
  CHECK(same_bits(whole.gradients, sum.finish(add)));
}

}  // namespace

TEST_CASE_TEMPLATE("moe: gradients, with and without dropped tokens", Memory, memory::keep,
                   memory::recompute_selective) {
  for (float capacity : {0.0f, 0.75f}) {
    directional::harness<Memory> h(2, 7);
    auto const block = make_block(4, 2, capacity);
    nn::moe::saved<float> saved;
    std::vector<index_t> routes;
    directional::check(
        h, block, 10, 10,
        [&](auto& pass, auto const& p, auto x, auto y) {
          block.forward(pass, p, x, matrix_view<float const>{}, y, saved);
          std::vector<index_t> const places(saved.routes.places.data(), saved.routes.places.data() + 28);
          if (routes.empty()) routes = places;
          CHECK(routes == places);  // differences mean something while tokens go where they went
        },
        [&](auto& pass, auto const& p, auto const& g, auto x, auto dy, auto dx) {
          block.backward(pass, p, g, saved, x, dy, dx);
        });
    CHECK((std::count(routes.begin(), routes.end(), -1) > 0) == (capacity > 0));
  }
}

TEST_CASE("moe: a batch is its sequences, to the bit") {
  check_cut(make_block(8, 2), 8, 6);
  check_cut(make_block(8, 2, 1.0f), 6, 6);
  check_cut(make_block(3, 1), 4, 128);  // two leaves a sequence
  // Products so small that sums are +0 or -0: a sequence without tokens for an expert counts as +0.
  check_cut(make_block(4, 1), 2, 4, 3e-45f);
}

TEST_CASE("moe: an expert without tokens has no gradient, whatever was there") {
  auto const block = make_block(8, 1);
  std::vector<float> const x(20, 0.5f), d_y(20, 1.0f);  // equal tokens
  auto const o = run(block, 0, 1, 2, x, d_y);
  std::vector<nn::parameter_spec> specs;
  nn::binder<float const> describe(&specs);
  block.bind(describe);
  int with = 0;
  for (auto const& s : specs) {
    auto const begin = o.gradients.begin() + s.offset;
    with += std::any_of(begin, begin + s.size(), [](float v) { return v != 0; });
  }
  CHECK(with == 3);  // three matrices of one expert; of one slot the weight is 1, and the router's loss has weight 0
}

TEST_CASE("moe: the same bits under every memory policy") {
  auto const block = make_block(4, 2);
  auto const x = directional::random_values(2 * 9 * 10, "x", 1.0f), d_y = directional::random_values(180, "dy", 1.0f);
  auto const kept = run(block, 0, 2, 9, x, d_y);
  auto const again = run<memory::recompute_selective>(block, 0, 2, 9, x, d_y);
  CHECK(same_bits(kept.y, again.y));
  CHECK(same_bits(kept.d_x, again.d_x));
  CHECK(same_bits(kept.gradients, again.gradients));
}

TEST_CASE("moe: the auxiliary loss is told once per sequence, in backward") {
  directional::harness<> h(3, 5);
  auto block = make_block(4, 2);
  block.auxiliary_weight = 0.5f;
  nn::binder<float const> describe(static_cast<float const*>(nullptr));
  block.bind(describe);
  std::vector<float> const parameters(std::size_t(describe.size()), 0.0f);  // every probability is 1/4
  std::vector<float> gradients(parameters.size()), x(150, 1.0f), y(150), d_x(150);
  nn::binder<float const> read(parameters.data());
  nn::binder<float> write(gradients.data());
  auto const p = block.bind(read);
  auto const g = block.bind(write);
  exact_sum sum;
  auto pass = h.pass();
  pass.auxiliary_loss = &sum;
  nn::moe::saved<float> saved;
  auto const xs = matrix<float const>(x.data(), 15, 10);
  block.forward(pass, p, xs, xs, matrix(y.data(), 15, 10), saved);
  CHECK(sum.value() == 0);
  block.backward(pass, p, g, saved, xs, xs, matrix(d_x.data(), 15, 10));
  CHECK(sum.value() == 3 * 0.5);
}
