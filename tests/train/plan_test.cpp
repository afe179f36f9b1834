// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 600
#include <parallel/on_mesh.hpp>

#include <tenon/train/plan.hpp>

using namespace on_mesh_test;

namespace {

/// Configurations whose bytes were foretold, and those of them that were not right.
int configurations = 0;

/// Each rank of a trainer holds what is foretold for it, to the byte.
template <class Model, class... Ps>
void check(comm::mesh_shape mesh, index_t batch, index_t accumulate) {
  using line = trainer<Model, comm::threads, Ps...>;
  ++configurations;
  struct {
    index_t state, activations;
  } measured[16];
  std::mutex output;
  auto o = options(batch, accumulate, mesh);
  auto const s = train::strategy_of<line>(Model::config, o);
  CAPTURE(configurations);
  CAPTURE(comm::to_string(s.mesh));
  CAPTURE(s.zero);
  comm::threads::run(int(s.mesh.size()), [&](comm::threads& world) {
    line t{world, o};
    text const b(batch, 1);
    t.step(b.tokens, b.targets);
    measured[world.rank()] = {index_t(t.state_bytes()), index_t(t.activation_bytes())};
  });
  for (int r = 0; r < int(s.mesh.size()); ++r) {
    int rest = r;
    auto const next = [&](int n) { return std::exchange(rest, rest / n) % n; };
    parallel::rank_place at;
    at.tensor = next(s.mesh.tensor), at.context = next(s.mesh.context), at.expert = next(s.mesh.expert);
    at.data = next(s.mesh.data), at.pipeline = rest;
    auto const f = parallel::footprint_of(Model::shape(Model::config), s, at);
    CAPTURE(r);
    CHECK(f.state() == measured[r].state);
    CHECK(f.activations == measured[r].activations);
  }
}

using any_data = data<dynamic>;

}  // namespace

TEST_CASE("bytes of data parallelism and zero") {
  for (index_t accumulate : {1, 2, 4}) {
    check<gpt, any_data>({}, 8, accumulate);
    check<gpt, any_data>({.data = 2}, 8, accumulate);
    check<gpt, any_data, zero<1>>({.data = 2}, 8, accumulate);
    check<gpt, any_data, zero<1>>({.data = 4}, 8, accumulate / 2 + 1 - accumulate % 2);
  }
}
