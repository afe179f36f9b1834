// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 300
#include <parallel/on_mesh.hpp>

using namespace on_mesh_test;

namespace {

/// All sizes are multiples of 16, so that nothing is padded.
constexpr gpt2_config deep_shape{.layers = 12, .width = 64, .heads = 4, .context = 32, .vocabulary = 67, .tied = false};
using deep = models::gpt2<deep_shape>;
using tied = models::gpt2<gpt2_config{.layers = 12, .width = 64, .heads = 4, .context = 32, .vocabulary = 67}>;

struct traffic_of_steps {
  std::uint64_t reduced = 0, gathered = 0;  ///< bytes sent, over all ranks
};
/// What a step sends: the difference between two steps and one, when all that they began is done.
template <class Model, class... Ps>
traffic_of_steps of_a_step(comm::mesh_shape mesh, index_t accumulate = 1) {
  auto const sent_by = [&](int steps) {
    std::vector<comm::counters> all(std::size_t(mesh.size()));
    comm::threads::run(int(mesh.size()), [&](comm::threads& world) {
      {
        trainer<Model, comm::threads, Ps...> t{world, options(8, accumulate, mesh)};
        for (int i = 0; i < steps; ++i) {
          text const b(8, std::uint32_t(i));
          t.step(b.tokens, b.targets);
        }
      }
      all[std::size_t(world.rank())] = world.traffic();
    });
    traffic_of_steps sum;
    for (auto const& c : all)
      sum.reduced += c.of(comm::operation::reduce_scatter).bytes,
          sum.gathered += c.of(comm::operation::all_gather).bytes;
    return sum;
  };
  auto const one = sent_by(1), two = sent_by(2);
  return {two.reduced - one.reduced, two.gathered - one.gathered};
}

/// Parameters, of all of a model or of those whose names hold `part`.
template <class Model>
std::uint64_t count(std::string const& part = "") {
  trainer<Model> t{options(8, 1)};
  std::uint64_t n = 0;
  for (auto const& s : t.parameter_list())
    if (s.name.find(part) != std::string::npos) n += std::uint64_t(s.size());
  return n;
}

}  // namespace

// Rajbhandari et al. 2020, arXiv:1910.02054, section 7: 2 psi for data parallelism and stages 1 and 2, 3 psi for stage 3.
// A ring's share of that is (N - 1) / N, so that N ranks send N - 1 times the bytes.
TEST_CASE("bytes on the wire are those of the closed forms") {
  std::uint64_t const psi = count<deep>() * sizeof(float), layer = count<deep>("h.3.") * sizeof(float);
  for (int ranks : {2, 4}) {
    CAPTURE(ranks);
    auto const others = std::uint64_t(ranks - 1);
    auto const check = [&](traffic_of_steps const& sent, std::uint64_t reduced, std::uint64_t gathered) {
      CHECK(sent.reduced == others * reduced);
      CHECK(sent.gathered == others * gathered);
    };
    check(of_a_step<deep, data<dynamic>>({.data = ranks}), psi, psi);
    check(of_a_step<deep, data<dynamic>, zero<1>>({.data = ranks}), psi, psi);
    check(of_a_step<deep, data<dynamic>, zero<2>>({.data = ranks}), psi, psi);
    // What the forward has gathered last backward need not gather again: what is outside of layers, and two of those.
    std::uint64_t const kept = psi - 10 * layer;
    check(of_a_step<deep, data<dynamic>, zero<3>>({.data = ranks}), psi, 2 * psi - kept);
    // Gradients are summed before they are sent (stage 1), or micro-batch by micro-batch (stages 2 and 3).
    check(of_a_step<deep, data<dynamic>, zero<1>>({.data = ranks}, 2), psi, psi);
    check(of_a_step<deep, data<dynamic>, zero<2>>({.data = ranks}, 2), 2 * psi, psi);
  }
  // The two gradients of a shared table travel apart.
  std::uint64_t const all = count<tied>() * sizeof(float), table = count<tied>("wte") * sizeof(float);
  auto const sent = of_a_step<tied, data<2>, zero<1>>({.data = 2});
  CHECK(sent.reduced == all + table);
  CHECK(sent.gathered == all);
}

TEST_CASE("four ranks of zero<3> hold little more than a quarter") {
  trainer<deep> one{options(8, 1)};
  text const b(8, 1);
  one.step(b.tokens, b.targets);
  std::vector<std::size_t> bytes(4);
  comm::threads::run(4, [&](comm::threads& world) {
    trainer<deep, comm::threads, data<4>, zero<3>> t{world, options(8, 1, {.data = 4})};
    t.step(b.tokens, b.targets);
    bytes[std::size_t(world.rank())] = t.state_bytes();
  });
  std::size_t const psi = sizeof(float) * std::size_t(one.parameter_count());
  CHECK(one.state_bytes() == 4 * psi);
  for (std::size_t n : bytes) {
    MESSAGE("of one rank's: " << double(n) / double(4 * psi));
    CHECK(double(n) <= 0.35 * double(4 * psi));
  }
}
