// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <tenon/comm/threads.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/nn/initialize.hpp>
#include <tenon/train/host_ops.hpp>

using namespace tenon;

namespace {

enum class inputs { random, equal };
struct problem {
  index_t experts = 8, slots = 2;
  index_t samples = 4, length = 24;  ///< of all ranks together
  float capacity_factor = 0;
  inputs x = inputs::random;
  bool defers = false;

  static constexpr index_t width = 32;
  index_t tokens() const { return samples * length; }
  nn::moe block() const {
    auto const net = models::mixtral<>::network<arithmetic::bitwise>({.layers = 1,
                                                                      .width = width,
                                                                      .heads = 2,
                                                                      .kv_heads = 2,
                                                                      .hidden = 48,
                                                                      .context = length,
                                                                      .vocabulary = 5,
                                                                      .experts = experts,
                                                                      .experts_per_token = slots,
                                                                      .capacity_factor = capacity_factor,
                                                                      .auxiliary_weight = 0.5f});
    nn::moe b = net.layers.layers[0].second.inner;
    b.up.stddev = b.down.stddev = 0.3f;
    return b;
  }
};

/// What a rank has after both directions. Gradients are by name, whole, and NaN where the rank has no part of them.
struct results {
  std::vector<float> y, d_x;
  std::map<std::string, std::vector<float>> gradients;
  std::vector<index_t> rows_for_expert;
  double balance = 0;
  comm::counters traffic;
};

template <class T>
std::vector<T> random_values(index_t n, char const* name) {
  std::vector<T> v(static_cast<std::size_t>(n));
  random_stream const stream(3, name);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = T(stream.uniform(0, i) * 2 - 1);
  return v;
}
template <class T>
std::vector<float> as_floats(std::vector<T> const& from) {
  std::vector<float> to;
  for (auto x : from) to.push_back(float(x));
  return to;
}
template <class T>
std::vector<T> part_of(std::vector<T> const& whole, int rank, int ranks) {
  auto const n = std::ptrdiff_t(whole.size()) / ranks;
  return {whole.begin() + rank * n, whole.begin() + (rank + 1) * n};
}
bool same_bits(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Both directions of the block over this rank's share of the samples.
template <class T, class Memory, class C>
results run(comm::mesh<C>& mesh, problem const& p) {
  int const rank = mesh.expert.rank(), ranks = mesh.expert.size();
  auto block = p.block();
  if (mesh.tensor.size() > 1) block.shard(mesh.tensor.rank(), mesh.tensor.size());
  if (ranks > 1) block.shard_experts(rank, ranks);
  std::vector<parameter_spec> specs;
  nn::binder<float const> describe(&specs);
  block.bind(describe);
  std::vector<float> drawn(std::size_t(describe.size()));
  nn::initialize(specs, drawn.data(), 5);
  std::vector<T> values;
  for (float v : drawn) values.push_back(T(v));

  auto x = random_values<T>(p.tokens() * p.width, "x");
  if (p.x == inputs::equal)
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = x[i % std::size_t(p.width)];
  x = part_of(x, rank, ranks);
  auto const d_y = part_of(random_values<T>(p.tokens() * p.width, "d_y"), rank, ranks);
  std::vector<T> y(x.size()), d_x(x.size());

  // A schedule that puts work off may have it written into the buffer of another micro-batch, `moved` further on.
  index_t const moved = p.defers ? describe.size() : 0;
  std::vector<float> gradients(std::size_t(describe.size() + moved), NAN);
  nn::binder<T const> read(values.data());
  nn::binder<float> write(gradients.data());
  auto const weights = block.bind(read);
  auto const d_weights = block.bind(write);

  exec::host_context exec(2);
  arena saved;
  std::vector<index_t> positions, begins;
  for (index_t i = 0; i < p.tokens() / ranks; ++i) positions.push_back(i % p.length);
  for (index_t i = 0; i <= p.samples / ranks; ++i) begins.push_back(i * p.length);
  nn::pass<exec::host_context, arithmetic::bitwise, Memory, nn::no_hooks, C> pass{
      exec, saved, positions, begins, p.length, 0, 1, 1, true};
  pass.mesh = &mesh;
  pass.auxiliary_scale = 0.3f;
  exact_sum balance;
  pass.auxiliary_loss = &balance;
  nn::deferred_gradients<exec::host_context> deferred;
  if (p.defers) pass.deferred = &deferred;

  auto const of = [&](auto& v) { return matrix(v.data(), pass.tokens(), p.width); };
  nn::moe::saved<T> s;
  auto const before = mesh.world.traffic();
  auto const forward = [&] { block.forward(pass, weights, as_const(of(x)), as_const(of(x)), of(y), s); };
  forward();
  if (pass.recomputes_layers) {
    saved.release({});
    forward();
  }
  block.backward(pass, weights, d_weights, s, as_const(of(x)), of(d_y), of(d_x));
  results r;
  r.y = as_floats(y), r.d_x = as_floats(d_x);
  std::fill(x.begin(), x.end(), T(NAN));
  std::fill_n(exec.scratch().template allocate<float>(1 << 18), 1 << 18, NAN);
  for (auto const& work : deferred.work) work(exec, moved);
  for (std::size_t o = 0; o < comm::operations; ++o) {
    r.traffic.by_operation[o].calls = mesh.world.traffic().by_operation[o].calls - before.by_operation[o].calls;
    r.traffic.by_operation[o].bytes = mesh.world.traffic().by_operation[o].bytes - before.by_operation[o].bytes;
  }
  for (auto const& spec : specs) {
    auto& g = r.gradients[spec.name];
    g.assign(std::size_t(spec.whole().size()), NAN);
    spec.for_each_run([&](index_t here, index_t there, index_t n) {
      std::copy_n(gradients.data() + moved + spec.offset + here, n, g.data() + there);
    });
  }
  for (index_t e = 0; e < p.experts; ++e)
    r.rows_for_expert.push_back(s.routes.begins[std::size_t(e) + 1] - s.routes.begins[std::size_t(e)]);
  r.balance = balance.value();
  return r;
}
template <class T = float>
results run_alone(problem const& p) {
  comm::self self;
  comm::mesh<comm::self> mesh(self, {});
  return run<T, memory::keep>(mesh, p);
}
template <class T = float, class Memory = memory::keep>
std::vector<results> run_on(comm::mesh_shape const& shape, problem const& p) {
  std::vector<results> all(std::size_t(shape.size()));
  comm::threads::run(int(shape.size()), [&](comm::threads& world) {
    comm::mesh<comm::threads> mesh(world, shape);
    all[std::size_t(world.rank())] = run<T, Memory>(mesh, p);
  });
  return all;
}

template <class T = float, class Memory = memory::keep>
void check_same_as_one_rank(problem const& p, std::vector<int> const& rank_counts, int tensor = 1) {
  CAPTURE(p.experts);
  CAPTURE(p.slots);
  CAPTURE(p.samples);
  CAPTURE(p.length);
  CAPTURE(p.capacity_factor);
  auto const whole = run_alone<T>({p.experts, p.slots, p.samples, p.length, p.capacity_factor, p.x});
  for (int ranks : rank_counts) {
    CAPTURE(ranks);
    auto const parts = run_on<T, Memory>({.tensor = tensor, .expert = ranks}, p);
    double balance = 0;
    std::vector<std::vector<float>> routers;
    std::map<std::string, std::vector<float>> experts;
    for (int i = 0; i < int(parts.size()); ++i) {
      auto const& part = parts[std::size_t(i)];
      int const r = i / tensor;
      CAPTURE(r);
      CHECK(same_bits(part.y, part_of(whole.y, r, ranks)));
      CHECK(same_bits(part.d_x, part_of(whole.d_x, r, ranks)));
      CHECK(part.gradients.size() == std::size_t(1 + 3 * p.experts / ranks));
      for (auto const& [name, g] : part.gradients) {
        if (name == "gate.weight") {
          if (i % tensor == 0) routers.push_back(g);
          continue;
        }
        auto& to = experts.try_emplace(name, g.size(), NAN).first->second;
        for (std::size_t j = 0; j < g.size(); ++j)
          if (!std::isnan(g[j])) to[j] = g[j];
      }
      if (i % tensor == 0) balance += part.balance;
    }
    CHECK(balance == doctest::Approx(whole.balance));
    std::vector<float const*> nodes;
    for (auto const& g : routers) nodes.push_back(g.data());
    experts["gate.weight"].resize(routers[0].size());
    comm::node_sum add(ranks);
    add(experts["gate.weight"].data(), nodes, routers[0].size());
    REQUIRE(experts.size() == whole.gradients.size());
    for (auto const& g : whole.gradients) {
      CAPTURE(g.first);
      CHECK(same_bits(experts.at(g.first), g.second));
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("experts on several ranks: the bits of one with all samples", T, float, bf16) {
  check_same_as_one_rank<T>({}, {1, 2, 4});
  check_same_as_one_rank<T>({.slots = 1, .samples = 2, .length = 128}, {2});  // two leaves a sequence
  check_same_as_one_rank<T>({.experts = 6, .slots = 3, .samples = 6}, {3});
  check_same_as_one_rank<T>({.capacity_factor = 0.75f}, {2, 4});
}

TEST_CASE("experts on several ranks: experts without rows, ranks that send or receive nothing") {
  for (index_t slots : {1, 2}) check_same_as_one_rank({.slots = slots, .x = inputs::equal}, {2, 4});
  check_same_as_one_rank({.slots = 1, .samples = 8, .length = 1}, {4, 8});
}

TEST_CASE("experts on several ranks: every memory policy, and weight gradients that come later") {
  for (bool defers : {false, true}) {
    CAPTURE(defers);
    problem const p{.capacity_factor = 1, .defers = defers};
    check_same_as_one_rank<float, memory::keep>(p, {1, 2});
    check_same_as_one_rank<float, memory::recompute_selective>(p, {2});
    check_same_as_one_rank<bf16, memory::recompute_full>(p, {4});
  }
}

TEST_CASE("experts on several ranks, each cut over others") {
  check_same_as_one_rank({.experts = 4}, {2}, 2);
  check_same_as_one_rank({.experts = 4, .x = inputs::equal}, {2}, 2);
}

TEST_CASE_TEMPLATE("experts on several ranks: the bytes that all_to_all sends", T, float, bf16) {
  index_t const ranks = 4;
  problem const p{.length = 128, .capacity_factor = 1};
  index_t const held = p.experts / ranks, leaves = 2;
  auto const check = [&](std::vector<results> const& all, index_t forwards) {
    for (index_t r = 0; r < ranks; ++r) {
      index_t moved = 0;  // rows of this rank's tokens that leave, and rows of others that go back
      for (index_t q = 0; q < ranks; ++q)
        for (index_t e = 0; e < p.experts; ++e)
          if ((q == r) != (e / held == r)) moved += all[std::size_t(q)].rows_for_expert[std::size_t(e)];
      auto const& sent = all[std::size_t(r)].traffic.of(comm::operation::all_to_all);
      CHECK(sent.calls == std::uint64_t(forwards * 3 + 2));
      CHECK(sent.bytes == std::uint64_t((forwards + 1) * moved * p.width * index_t(sizeof(T)) +
                                        forwards * (ranks - 1) * held * leaves * index_t(sizeof(index_t))));
      CHECK(all[std::size_t(r)].traffic.bytes() == sent.bytes);
    }
  };
  check(run_on<T>({.expert = int(ranks)}, p), 1);
  check(run_on<T, memory::recompute_selective>({.expert = int(ranks)}, p), 1);
  check(run_on<T, memory::recompute_full>({.expert = int(ranks)}, p), 2);
}

TEST_CASE("a rank of expert parallelism names its experts by their numbers, in a bucket of their own") {
  auto block = problem{}.block();
  block.shard_experts(1, 4);
  std::vector<parameter_spec> specs;
  std::vector<nn::bucket_begin> begins;
  nn::binder<float const> describe(&specs, &begins);
  block.bind(describe);
  REQUIRE(specs.size() == 7);
  CHECK(specs[0].name == "gate.weight");
  CHECK(specs[0].rows == 8);
  CHECK(specs[1].name == "experts.2.w1.weight");
  CHECK(specs[6].name == "experts.3.w2.weight");
  REQUIRE(begins.size() == 1);
  CHECK(begins[0].at == specs[1].offset);
  CHECK(begins[0].experts);
}

TEST_CASE("experts that cannot be shared out are refused with numbers") {
  auto block = problem{}.block();
  CHECK_THROWS_WITH_AS(block.shard_experts(0, 3), doctest::Contains("8 experts do not come out even on 3 expert ranks"),
                       argument_error);
  block.shard_experts(0, 2);
  exec::host_context exec(1);
  arena saved;
  nn::pass<exec::host_context, arithmetic::bitwise, memory::keep> pass{exec, saved, {}, {}};
  nn::moe::saved<float> s;
  CHECK_THROWS_WITH_AS(block.forward(pass, nn::moe::parameters<float const>{}, matrix_view<float const>{},
                                     matrix_view<float const>{}, matrix_view<float>{}, s),
                       doctest::Contains("cut over 2 ranks, and the mesh has expert=1"), argument_error);
}
