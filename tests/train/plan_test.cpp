// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
#include <parallel/on_mesh.hpp>

#include <algorithm>

#include <tenon/train/plan.hpp>

using namespace on_mesh_test;
using namespace tenon::literals;

// Known when it compiles, for meshes and schedules too.
using one_rank = trainer<models::gpt2_124m>;
static_assert(plan<one_rank>.parameters ==
              124'475'904);  // 50304 tokens: the published 124,439,808 and 47 rows of padding
static_assert(plan<one_rank>.bytes_per_rank <= 3_GiB && plan<one_rank>.bytes_per_rank > 2_GiB);
static_assert(fits<one_rank, 3_GiB>());
static_assert(plan<one_rank>.flops > 6e11 && plan<one_rank>.bytes_sent.total() == 0);
using on_devices = trainer<models::gpt2_124m, comm::threads, data<2>, tensor<2>, pipeline<2, zero_bubble>, zero<1>,
                           precision::bf16_mixed, memory::recompute_selective>;
static_assert(plan<on_devices>.how.mesh.size() == 8 && plan<on_devices>.how.accumulate == 2);
static_assert(plan<on_devices>.bytes_per_rank < plan<one_rank>.bytes_per_rank / 2);
static_assert(plan<on_devices>.bubble() > 0.16 && plan<on_devices>.bubble() < 0.17);  // 1 / (3 x 2)
static_assert(plan<on_devices>.time_on(hw::h100_sxm).step < plan<on_devices>.time_on(hw::a100_80gb).step);
static_assert(plan<on_devices>.utilisation(hw::a100_80gb) < 1);

namespace {

/// No size needs padding.
using even =
    models::gpt2<gpt2_config{.layers = 12, .width = 64, .heads = 4, .context = 32, .vocabulary = 64, .tied = false}>;

template <class Model, class... Ps>
void check(comm::mesh_shape mesh, index_t batch, index_t accumulate) {
  using line = trainer<Model, comm::threads, Ps...>;
  auto const p = plan_for<line>({batch, accumulate, length, mesh});
  CAPTURE(p.how.zero);
  CAPTURE(comm::to_string(p.how.mesh));
  int const ranks = int(mesh.size());
  std::vector<comm::counters> sent[2];
  index_t most = 0;
  for (int steps : {1, 2}) {
    auto& all = sent[steps - 1];
    all.resize(std::size_t(ranks));
    std::mutex one;
    comm::threads::run(ranks, [&](comm::threads& world) {
      {
        line t{world, options(batch, accumulate, mesh)};
        text b(batch, 1);
        for (auto& token : b.tokens) token %= 64;
        for (auto& token : b.targets) token = std::min(token, 63);
        for (int i = 0; i < steps; ++i) t.step(b.tokens, b.targets);
        std::lock_guard const hold(one);
        most = std::max(most, index_t(t.state_bytes() + t.activation_bytes()));
        CHECK(p.parameters == t.parameter_count());
        CHECK(p.flops == doctest::Approx(t.step_flops()));
      }
      all[std::size_t(world.rank())] = world.traffic();
    });
  }
  CHECK(p.bytes_per_rank == most);
  auto const of = [&](comm::operation what) {  // of a step and a rank, in the mean
    double bytes = 0;
    for (std::size_t r = 0; r < std::size_t(ranks); ++r)
      bytes += double(sent[1][r].of(what).bytes - sent[0][r].of(what).bytes);
    return bytes / ranks;
  };
  if (mesh.data == ranks) {
    CHECK(of(comm::operation::reduce_scatter) == doctest::Approx(p.bytes_sent.gradients));
    CHECK(of(comm::operation::all_gather) == doctest::Approx(p.bytes_sent.parameters));
  }
  if (mesh.pipeline == ranks)  // the first and the last send half of what those between them do
    CHECK(of(comm::operation::exchange) == doctest::Approx(p.bytes_sent.pipeline * (ranks - 1) / ranks));
  if (mesh.tensor == ranks) {  // beside layers: the embedding, the head's gradient, the losses
    double const all = of(comm::operation::reduce_scatter) + of(comm::operation::all_gather);
    CHECK(all > p.bytes_sent.tensor);
    CHECK(all < 1.15 * p.bytes_sent.tensor);
  }
}

}  // namespace

TEST_CASE("a plan has the bytes, the operations and the traffic of the trainer") {
  for (index_t accumulate : {1, 2}) {
    check<even, data<dynamic>>({.data = 2}, 8, accumulate);
    check<even, data<dynamic>, zero<1>>({.data = 4}, 8, accumulate);
    check<even, data<dynamic>, zero<2>>({.data = 2}, 8, accumulate);
    check<even, data<dynamic>, zero<3>>({.data = 4}, 8, accumulate);
  }
  check<even, tensor<dynamic>, pipeline<dynamic>>({.tensor = 4}, 4, 1);
  check<even, tensor<dynamic>, pipeline<dynamic>>({.pipeline = 4}, 8, 8);
  check<cut_mixtral, data<dynamic>>({.data = 2}, 8, 1);
}
