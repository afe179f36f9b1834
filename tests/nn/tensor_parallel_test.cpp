// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/nn/initialize.hpp>
#include <tenon/train/host_ops.hpp>

namespace {

using namespace tenon;
constexpr index_t length = 128, samples = 2, tokens = samples * length;

template <class V>
bool same_bits(V const& a, V const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
}
template <class T>
std::vector<T> random_values(index_t n, char const* name) {
  std::vector<T> v(static_cast<std::size_t>(n));
  random_stream const stream(7, name);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = T(stream.uniform(0, i) * 2 - 1);
  return v;
}

/// A pass of one rank, and what it refers to.
template <class Ranks, bool CutsTokens = false>
struct harness {
  using pass_type = nn::pass<exec::host_context, arithmetic::bitwise, memory::keep, nn::no_hooks, Ranks, CutsTokens>;
  exec::host_context exec{1};
  arena saved;
  std::vector<index_t> positions, begins;
  comm::mesh<Ranks> mesh;
  pass_type pass;
  explicit harness(Ranks& world)
      : mesh(world, {.tensor = world.size()}), pass{exec, saved, positions, begins, length, 0, 1, 1, true} {
    for (index_t i = 0; i < tokens; ++i) positions.push_back(i % length);
    for (index_t i = 0; i <= samples; ++i) begins.push_back(i * length);
    pass.positions = positions, pass.sequence_begins = begins, pass.mesh = &mesh;
  }
};

/// Parameters of a block, drawn by name, and its gradients.
template <class T, class Block>
struct bound {
  std::vector<parameter_spec> specs;
  std::vector<T> values;
  std::vector<float> gradient_values;
  typename Block::template parameters<T const> parameters;
  typename Block::template parameters<float> gradients;
  explicit bound(Block const& block) {
    nn::binder<float const> describe(&specs);
    block.bind(describe);
    std::vector<float> drawn(std::size_t(describe.size()));
    auto random = specs;
    for (auto& s : random) s.init.stddev = 0.2f;  // biases, too
    nn::initialize(random, drawn.data(), 5);
    for (float v : drawn) values.push_back(T(v));
    gradient_values.assign(values.size(), NAN);
    nn::binder<T const> read(values.data());
    parameters = block.bind(read);
    nn::binder<float> write(gradient_values.data());
    gradients = block.bind(write);
  }
};

/// What a pass leaves behind: activations, and the gradients of the whole model.
template <class T>
struct outcome {
  std::vector<std::vector<T>> activations;
  std::vector<std::vector<float>> gradients;
  friend bool operator==(outcome const& a, outcome const& b) {
    bool same = a.activations.size() == b.activations.size() && a.gradients.size() == b.gradients.size();
    for (std::size_t i = 0; same && i < a.activations.size(); ++i) same = same_bits(a.activations[i], b.activations[i]);
    for (std::size_t i = 0; same && i < a.gradients.size(); ++i) same = same_bits(a.gradients[i], b.gradients[i]);
    return same;
  }
};
template <class T, class Block>
void put_gradients(bound<T, Block> const& b, std::vector<std::vector<float>>& whole) {
  whole.resize(b.specs.size());
  for (std::size_t i = 0; i < b.specs.size(); ++i) {
    whole[i].resize(std::size_t(b.specs[i].whole().size()));
    b.specs[i].for_each_run([&](index_t here, index_t there, index_t n) {
      std::copy_n(b.gradient_values.data() + b.specs[i].offset + here, n, whole[i].data() + there);
    });
  }
}

/// Runs `use(pass, block, bound, activations)` on `ranks` ranks; every rank's activations must be the same.
template <class T, bool CutsTokens = false, class Block, class Use>
outcome<T> on_ranks(int ranks, Block block, Use&& use) {
  std::vector<outcome<T>> all(std::size_t(ranks), outcome<T>{});
  std::vector<std::vector<float>> gradients;
  comm::threads::run(ranks, [&](comm::threads& world) {
    harness<comm::threads, CutsTokens> h(world);
    Block part = block;
    if (ranks > 1) part.shard(world.rank(), ranks);
    bound<T, Block> b(part);
    use(h.pass, part, b, all[std::size_t(world.rank())].activations);
    for (int r = 0; r < ranks; ++r) {
      if (r == world.rank()) put_gradients(b, gradients);
      world.barrier();
    }
  });
  for (auto const& o : all) CHECK(o == all[0]);
  all[0].gradients = gradients;
  return all[0];
}
template <class T, class Block>
outcome<T> alone(Block const& block, auto&& use) {
  comm::self world;
  harness<comm::self> h(world);
  bound<T, Block> b(block);
  outcome<T> o;
  use(h.pass, block, b, o.activations);
  put_gradients(b, o.gradients);
  return o;
}

/// y = residual + block(x) and back.
template <class T>
struct both_directions {
  index_t width;
  template <class Pass, class Block>
  void operator()(Pass& pass, Block const& block, bound<T, Block>& b, std::vector<std::vector<T>>& results) const {
    auto const x = random_values<T>(tokens * width, "x"), residual = random_values<T>(tokens * width, "residual"),
               d_y = random_values<T>(tokens * width, "dy");
    auto y = x, d_x = x;
    auto const of = [&](auto& v) { return matrix(v.data(), tokens, width); };
    typename Block::template saved<T> s;
    arena_scope scope(pass.saved);
    block.forward(pass, b.parameters, of(x), of(residual), of(y), s);
    block.backward(pass, b.parameters, b.gradients, s, of(x), of(d_y), of(d_x));
    results = {y, d_x};
  }
};
template <class T, class Block>
void check_block(Block const& block, index_t width, std::vector<int> const& all_ranks) {
  both_directions<T> const use{width};
  auto const expected = alone<T>(block, use);
  for (auto const& g : expected.gradients)
    CHECK(std::all_of(g.begin(), g.end(), [](float v) { return std::isfinite(v); }));
  for (int ranks : all_ranks) {
    CAPTURE(ranks);
    CHECK(expected == on_ranks<T>(ranks, block, use));
  }
}

constexpr gpt2_config gpt_shape{.layers = 1, .width = 128, .heads = 8, .context = length, .vocabulary = 131};
auto const gpt = models::gpt2<>::network<arithmetic::bitwise>(gpt_shape);
constexpr mixtral_config mixtral_shape{.layers = 1,
                                       .width = 128,
                                       .heads = 8,
                                       .kv_heads = 4,
                                       .hidden = 80,
                                       .context = length,
                                       .vocabulary = 67,
                                       .experts = 4,
                                       .qkv_bias = true};
auto const mixtral = models::mixtral<>::network<arithmetic::bitwise>(mixtral_shape);
auto const llama_mlp = nn::mlp{.activation = ops::activation_kind::silu,
                               .gated = true,
                               .up = mixtral.layers.layers[0].second.inner.up,
                               .down = mixtral.layers.layers[0].second.inner.down};

}  // namespace

TEST_CASE_TEMPLATE("attention, mlp and experts on several ranks: the bits of one", T, float, bf16) {
  SUBCASE("attention, one fused piece") { check_block<T>(gpt.layers.layers[0].first.inner, 128, {1, 2, 4, 8}); }
  SUBCASE("attention, grouped queries") { check_block<T>(mixtral.layers.layers[0].first.inner, 128, {2, 4}); }
  SUBCASE("mlp") { check_block<T>(gpt.layers.layers[0].second.inner, 128, {2, 4, 8}); }
  SUBCASE("gated mlp, where the last ranks have nothing") { check_block<T>(llama_mlp, 128, {2, 4, 8}); }
  SUBCASE("mixture of experts") { check_block<T>(mixtral.layers.layers[0].second.inner, 128, {2, 4}); }
}

/// y = layer(x) and back, each rank with the tokens that it has.
template <class T>
struct layer_directions {
  template <class Pass, class Block>
  void operator()(Pass& pass, Block const& block, bound<T, Block>& b, std::vector<std::vector<T>>& results) const {
    auto const x = random_values<T>(tokens * 128, "x"), d_y = random_values<T>(tokens * 128, "dy");
    auto y = x, d = d_y;
    auto const own = [&](auto& v) {
      return rows_of(matrix(v.data(), tokens, 128), pass.own_tokens().first, pass.own_tokens().count);
    };
    typename Block::template saved<T> s;
    arena_scope scope(pass.saved);
    block.forward(pass, b.parameters, own(x), own(y), s);
    block.backward(pass, b.parameters, b.gradients, s, own(d));
    nn::gather_tokens(pass, matrix(y.data(), tokens, 128));
    nn::gather_tokens(pass, matrix(d.data(), tokens, 128));
    results = {y, d};
  }
};

TEST_CASE_TEMPLATE("tokens cut between blocks: the bits of one rank, dropout and norms too", T, float, bf16) {
  auto layer = gpt.layers.layers[0];
  layer.first.dropout = layer.second.dropout = 0.2f;
  auto const expected = alone<T>(layer, layer_directions<T>{});
  for (int ranks : {1, 2, 4}) {
    CAPTURE(ranks);
    CHECK(expected == on_ranks<T>(ranks, layer, layer_directions<T>{}));
    CHECK(expected == on_ranks<T, true>(ranks, layer, layer_directions<T>{}));
  }
}

TEST_CASE_TEMPLATE("a layer and step is four all-reduces of its output: twice the bytes of a ring's one way", T, float,
                   bf16) {
  for (int ranks : {2, 4}) {
    std::vector<comm::counters> sent(std::size_t(ranks), comm::counters{});
    comm::threads::run(ranks, [&](comm::threads& world) {
      harness<comm::threads> h(world);
      auto layer = gpt.layers.layers[0];
      layer.shard(world.rank(), ranks);
      bound<T, decltype(layer)> b(layer);
      auto const before = world.traffic();
      auto const x = random_values<T>(tokens * 128, "x");
      auto y = x;
      typename decltype(layer)::template saved<T> s;
      layer.forward(h.pass, b.parameters, matrix(x.data(), tokens, 128), matrix(y.data(), tokens, 128), s);
      layer.backward(h.pass, b.parameters, b.gradients, s, matrix(y.data(), tokens, 128));
      auto& mine = sent[std::size_t(world.rank())];
      mine = world.traffic();
      for (std::size_t o = 0; o < comm::operations; ++o) {
        mine.by_operation[o].calls -= before.by_operation[o].calls;
        mine.by_operation[o].bytes -= before.by_operation[o].bytes;
      }
    });
    std::size_t const elements = 4 * std::size_t(tokens) * 128 * std::size_t(ranks - 1) / std::size_t(ranks);
    for (auto const& mine : sent) {
      auto const &scattered = mine.of(comm::operation::reduce_scatter),
                 &gathered = mine.of(comm::operation::all_gather);
      CHECK(scattered.calls == 4);
      CHECK(gathered.calls == 4);
      CHECK(scattered.bytes == elements * sizeof(float));
      CHECK(gathered.bytes == elements * sizeof(T));
      CHECK(mine.bytes() == scattered.bytes + gathered.bytes);
    }
  }
}

TEST_CASE("what cannot be cut is refused with numbers") {
  auto attention = mixtral.layers.layers[0].first.inner;
  CHECK_THROWS_WITH_AS(attention.shard(0, 8),
                       doctest::Contains("q_proj has 128 features in leaves of 32, to be cut "
                                         "over 8 ranks: each takes the same power of two"),
                       argument_error);
  auto three = gpt.layers.layers[0].second.inner;
  CHECK_THROWS_WITH_AS(three.shard(0, 3), doctest::Contains("over 3 ranks"), argument_error);
  auto const narrow =
      models::gpt2<>::network<arithmetic::bitwise>({.layers = 1, .width = 64, .heads = 8, .context = 8});
  auto heads = narrow.layers.layers[0].first.inner;
  CHECK_THROWS_WITH_AS(heads.shard(0, 8), doctest::Contains("each gets 8. Fix: fewer tensor ranks"), argument_error);
}
