// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/comm/threads.hpp>
#include <tenon/nn/attention.hpp>
#include <tenon/nn/combinators.hpp>
#include <tenon/nn/norm.hpp>
#include <tenon/train/host_ops.hpp>

using namespace tenon;

namespace {

struct problem {
  index_t samples = 1, length = 512;
  int query_heads = 4, kv_heads = 4, head_width = 16;
  index_t window = 0;
  float soft_cap = 0;
  nn::context_exchange exchange = nn::context_exchange::all_to_all;
  bool stream = false;

  static constexpr index_t width = 24;
  index_t tokens() const { return samples * length; }
  /// Attention with all that surrounds it in a layer.
  using block_type = nn::residual<nn::layer_norm, nn::self_attention>;
  block_type block() const {
    index_t const q = query_heads * head_width, kv = kv_heads * head_width;
    nn::self_attention b{.query_heads = query_heads, .kv_heads = kv_heads, .head_width = head_width};
    b.window = window, b.soft_cap = soft_cap, b.rope.base = 10000;
    b.qkv = {width, {{"q", q}, {"k", kv}, {"v", kv}}, true};
    b.projection = {q, {{"o", width}}, true};
    return {"norm", "attention", {width}, b, 0.3f, "dropout"};
  }
};

/// What a rank has after forward and backward; matrices are [samples][its tokens][columns].
struct results {
  std::vector<float> y, d_x, gradients;
  comm::counters traffic;
  double attention_flops = 0;
};

std::vector<float> random_values(index_t n, char const* name, float scale) {
  std::vector<float> v(static_cast<std::size_t>(n));
  random_stream const stream(3, name);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = (stream.uniform(0, i) * 2 - 1) * scale;
  return v;
}
template <class To, class From>
std::vector<To> converted(std::vector<From> const& from) {
  std::vector<To> to;
  for (auto x : from) to.push_back(To(float(x)));
  return to;
}
/// Tokens [rank, rank + 1) length / ranks of each sample of [samples][length][columns].
template <class T>
std::vector<T> chunk(std::vector<T> const& whole, index_t samples, int rank, int ranks) {
  std::vector<T> part;
  std::size_t const sample = whole.size() / std::size_t(samples), n = sample / std::size_t(ranks);
  for (std::size_t s = 0; s < std::size_t(samples); ++s) {
    auto const begin = whole.begin() + std::ptrdiff_t(s * sample + std::size_t(rank) * n);
    part.insert(part.end(), begin, begin + std::ptrdiff_t(n));
  }
  return part;
}
/// A pass of a rank, with everything it refers to.
template <class C, class Order = arithmetic::bitwise>
struct harness {
  using pass_type = nn::pass<exec::host_context, Order, memory::keep, nn::no_hooks, C>;
  exec::host_context exec;
  arena saved;
  std::vector<index_t> positions, begins;
  std::optional<comm::stream<C>> stream;

  explicit harness(int threads = 1) : exec(threads) {}
  pass_type pass(comm::mesh<C>& mesh, problem const& p) {
    index_t const rows = p.length / mesh.context.size();
    positions.clear(), begins.clear();
    for (index_t i = 0; i < p.samples * rows; ++i) positions.push_back(mesh.context.rank() * rows + i % rows);
    for (index_t s = 0; s <= p.samples; ++s) begins.push_back(s * rows);
    pass_type pass{exec, saved, positions, begins, p.length, 0, 1, 1, true};
    pass.mesh = &mesh;
    pass.exchange = p.exchange;
    if (p.stream) pass.context_stream = &stream.emplace(mesh.context);
    return pass;
  }
};

template <class T = float, class Order = arithmetic::bitwise, class C>
results run(comm::mesh<C>& mesh, problem const& p, int threads = 1) {
  harness<C, Order> h(threads);
  auto pass = h.pass(mesh, p);
  auto const block = p.block();
  nn::binder<T const> describe(static_cast<std::vector<nn::parameter_spec>*>(nullptr));
  block.template bind<T const>(describe);
  auto const parameters = converted<T>(random_values(describe.size(), "parameters", 0.5f));
  int const rank = mesh.context.rank(), ranks = mesh.context.size();
  auto const x = converted<T>(chunk(random_values(p.tokens() * p.width, "x", 1), p.samples, rank, ranks));
  auto d = converted<T>(chunk(random_values(p.tokens() * p.width, "d_y", 1), p.samples, rank, ranks));
  std::vector<T> y(x.size());
  results r;
  profile::recorder recorder;
  h.exec.profiler = &recorder;
  r.gradients.resize(parameters.size());
  nn::binder<T const> read(parameters.data());
  nn::binder<float> write(r.gradients.data());
  auto const weights = block.template bind<T const>(read);
  auto const gradients = block.template bind<float>(write);
  problem::block_type::saved<T> saved;
  auto const before = mesh.context.traffic();
  block.forward(pass, weights, matrix(x.data(), pass.tokens(), p.width), matrix(y.data(), pass.tokens(), p.width),
                saved);
  block.backward(pass, weights, gradients, saved, matrix(d.data(), pass.tokens(), p.width));
  for (std::size_t o = 0; o < comm::operations; ++o) {
    r.traffic.by_operation[o].calls = mesh.context.traffic().by_operation[o].calls - before.by_operation[o].calls;
    r.traffic.by_operation[o].bytes = mesh.context.traffic().by_operation[o].bytes - before.by_operation[o].bytes;
  }
  for (auto const& e : recorder.events)
    if (std::string_view(e.name).starts_with("attention")) r.attention_flops += e.done.flops;
  r.y = converted<float>(y), r.d_x = converted<float>(d);
  return r;
}
template <class T = float, class Order = arithmetic::bitwise>
results run_alone(problem const& p) {
  comm::self self;
  comm::mesh<comm::self> mesh(self, {});
  return run<T, Order>(mesh, p, 2);
}
/// All ranks' results.
template <class T = float, class Order = arithmetic::bitwise>
std::vector<results> run_on(int ranks, problem const& p, int threads = 1) {
  std::vector<results> all(static_cast<std::size_t>(ranks));
  comm::threads::run(ranks, [&](comm::threads& world) {
    comm::mesh<comm::threads> mesh(world, {.context = ranks});
    all[std::size_t(world.rank())] = run<T, Order>(mesh, p, threads);
  });
  return all;
}
bool same_bits(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

template <class T = float>
void check_same_as_one_rank(problem const& p, std::vector<int> const& rank_counts) {
  CAPTURE(p.samples);
  CAPTURE(p.length);
  CAPTURE(p.kv_heads);
  CAPTURE(p.head_width);
  CAPTURE(p.window);
  CAPTURE(p.soft_cap);
  CAPTURE(int(p.exchange));
  auto const whole = run_alone<T>(p);
  for (int ranks : rank_counts) {
    CAPTURE(ranks);
    auto const parts = run_on<T>(ranks, p, ranks == 2 ? 2 : 1);
    for (int r = 0; r < ranks; ++r) {
      CAPTURE(r);
      CHECK(same_bits(parts[std::size_t(r)].y, chunk(whole.y, p.samples, r, ranks)));
      CHECK(same_bits(parts[std::size_t(r)].d_x, chunk(whole.d_x, p.samples, r, ranks)));
    }
    if (p.samples > 1) continue;  // else a rank's tokens are no node of the tree over tokens
    std::vector<float const*> nodes;
    for (auto const& part : parts) nodes.push_back(part.gradients.data());
    std::vector<float> sum(whole.gradients.size());
    comm::node_sum add(ranks);
    add(sum.data(), nodes, sum.size());
    CHECK(same_bits(sum, whole.gradients));
  }
}

}  // namespace

TEST_CASE("context attention: outputs and gradients are those of one rank, bit for bit") {
  for (auto exchange :
       {nn::context_exchange::ring, nn::context_exchange::all_to_all, nn::context_exchange::all_gather}) {
    problem p{.exchange = exchange};
    check_same_as_one_rank(p, {1, 2, 4});
    p.stream = exchange == nn::context_exchange::ring;
    check_same_as_one_rank(p, {4});
    p.samples = 3, p.query_heads = 8, p.window = 100, p.soft_cap = 4;
    for (bool stream : {false, p.stream}) p.stream = stream, check_same_as_one_rank(p, {2, 4});
    p.samples = 1, p.kv_heads = 2, p.window = 300, p.head_width = 20;
    check_same_as_one_rank(p, {2});
    check_same_as_one_rank<bf16>(p, {2});
    p.query_heads = p.kv_heads = 8, p.window = 0, p.head_width = 4;
    if (exchange != nn::context_exchange::all_gather) check_same_as_one_rank(p, {8});
  }
}

TEST_CASE("context attention: all_gather where pieces are no whole blocks of keys, and KV heads fewer than ranks") {
  problem p{.length = 640, .kv_heads = 1, .exchange = nn::context_exchange::all_gather};
  check_same_as_one_rank(p, {2, 4});
  check_same_as_one_rank<bf16>(p, {4});
  p.length = 320, p.window = 90;  // the first half of the sequence is none either
  check_same_as_one_rank(p, {2});
}

TEST_CASE("context attention: without leaves the outputs are the same, and gradients nearly so") {
  for (auto exchange :
       {nn::context_exchange::ring, nn::context_exchange::all_to_all, nn::context_exchange::all_gather}) {
    CAPTURE(int(exchange));
    problem const p{.length = 576, .query_heads = 3, .kv_heads = 3, .exchange = exchange};
    auto const whole = run_alone<float, arithmetic::fast>(p);
    auto const parts = run_on<float, arithmetic::fast>(3, p);
    for (int r = 0; r < 3; ++r) {
      CHECK(same_bits(parts[std::size_t(r)].y, chunk(whole.y, p.samples, r, 3)));
      auto const expected = chunk(whole.d_x, p.samples, r, 3);
      bool near = true;
      for (std::size_t i = 0; i < expected.size(); ++i)
        near = near && std::abs(parts[std::size_t(r)].d_x[i] - expected[i]) < 1e-4f;
      CHECK(near);
    }
  }
}

TEST_CASE("context attention: under all_gather ranks have the same work, and the bytes that they send") {
  problem const p{.samples = 2, .query_heads = 8, .kv_heads = 2, .exchange = nn::context_exchange::all_gather};
  for (int ranks : {2, 4}) {
    auto const all = run_on(ranks, p);
    auto const pairs = double(p.samples * p.query_heads) * double(p.length * (p.length + 1) / 2) / ranks;
    index_t const rows = p.length / ranks, piece = rows / 2;
    for (int r = 0; r < ranks; ++r) {
      CAPTURE(r);
      auto const& [y, d_x, gradients, sent, flops] = all[std::size_t(r)];
      CHECK(flops == pairs * 2 * p.head_width * (2 + 5));
      auto const bytes = [&](index_t sends, index_t heads) {
        return std::uint64_t(p.samples * sends * heads * p.head_width) * sizeof(float);
      };
      // In both directions keys and values of its own to all.
      CHECK(sent.of(comm::operation::all_gather).bytes == bytes(2 * rows * (ranks - 1), 2 * p.kv_heads));
      // Queries there and outputs back; outputs and their gradients there and dq back, but for a piece that stays.
      bool const first_stays = r == 0, last_stays = 3 * r == 2 * ranks - 2 || 3 * r == 2 * ranks - 1;
      CHECK(sent.of(comm::operation::all_to_all).bytes ==
            bytes(5 * piece * (2 - first_stays - last_stays), p.query_heads));
      // Gradients of the keys of others: one sum for all of them, and one for those of the first half.
      index_t const others = ranks - 1 + ranks / 2 - (r < ranks / 2);
      CHECK(sent.of(comm::operation::reduce_scatter).bytes == bytes(others * rows, 2 * p.kv_heads));
      CHECK(sent.bytes() == sent.of(comm::operation::all_gather).bytes + sent.of(comm::operation::all_to_all).bytes +
                                sent.of(comm::operation::reduce_scatter).bytes);
    }
  }
}

TEST_CASE("context attention: the bytes that all_to_all sends") {
  problem const p{.samples = 2, .query_heads = 8};
  index_t const all_heads = 8 + 2 * 4, ranks = 4, part = p.tokens() / ranks * p.head_width * index_t(sizeof(float));
  for (auto const& r : run_on(int(ranks), p)) {
    // q, k, v there and the outputs back; outputs and their gradients there and dq, dk, dv back.
    auto const& sent = r.traffic.of(comm::operation::all_to_all);
    CHECK(sent.calls == std::uint64_t(4 * p.samples));
    CHECK(sent.bytes == std::uint64_t(part * (all_heads + 8 + 2 * 8 + all_heads) * (ranks - 1) / ranks));
    CHECK(r.traffic.bytes() == sent.bytes);
  }
}

TEST_CASE("context attention: the bytes that a ring sends") {
  for (index_t window : {0, 128}) {
    CAPTURE(window);
    problem const p{.samples = 2, .query_heads = 8, .window = window, .exchange = nn::context_exchange::ring};
    int const ranks = 4;
    auto const chunk_values = std::uint64_t(p.length / ranks * 2 * p.kv_heads * p.head_width);
    auto const all = run_on(ranks, p);
    for (int r = 0; r < ranks; ++r) {
      CAPTURE(r);
      // To the next rank all that it sees of others, in both directions; to those before, the gradients of what this
      // one sees. Within a window of a chunk that is the chunk before.
      int const next_sees = r + 1 == ranks ? 0 : window ? 1 : r + 1, sees = window ? std::min(r, 1) : r;
      auto const& sent = all[std::size_t(r)].traffic;
      CHECK(sent.of(comm::operation::exchange).bytes ==
            std::uint64_t(2 * p.samples * next_sees) * chunk_values * sizeof(float));
      CHECK(sent.of(comm::operation::reduce_scatter).bytes ==
            std::uint64_t(p.samples * sees) * chunk_values * sizeof(float));
      CHECK(sent.bytes() == sent.of(comm::operation::exchange).bytes + sent.of(comm::operation::reduce_scatter).bytes);
    }
  }
}

TEST_CASE("context attention: a rank's memory is that of its own tokens, or of all keys") {
  index_t const ranks = 4;
  std::byte const untouched{0xa5};
  for (auto exchange :
       {nn::context_exchange::ring, nn::context_exchange::all_to_all, nn::context_exchange::all_gather}) {
    CAPTURE(int(exchange));
    problem const p{.samples = 2, .length = 2048, .exchange = exchange};
    comm::threads::run(int(ranks), [&](comm::threads& world) {
      comm::mesh<comm::threads> mesh(world, {.context = int(ranks)});
      harness<comm::threads> h;
      auto pass = h.pass(mesh, p);
      index_t const rows = p.length / ranks, head = p.head_width, heads = p.query_heads;
      bool const ring = exchange == nn::context_exchange::ring, trades = exchange == nn::context_exchange::all_to_all;
      int const own_heads = trades ? p.query_heads / int(ranks) : p.query_heads;
      ops::attention_options const o{.query_heads = p.query_heads,
                                     .kv_heads = p.kv_heads,
                                     .head_width = p.head_width,
                                     .query_leaf = pass.token_leaf()};
      auto const qkv = pass.allocate<float>(3 * heads * head, true),
                 d_qkv = pass.allocate<float>(3 * heads * head, true);
      auto const out = pass.allocate<float>(heads * head, true);
      auto const lse = pass.saved.allocate_matrix<float>(heads, pass.tokens());
      std::fill_n(qkv.data(), qkv.size(), 0.5f);
      // What the operation itself takes.
      auto of_rank = o;
      of_rank.query_heads = of_rank.kv_heads = own_heads;
      index_t const queries = ring ? rows : trades ? p.length : rows / 2, begins[] = {0, queries};
      auto const view = matrix<float const>(nullptr, queries, own_heads * head);
      auto const keys = matrix<float const>(nullptr, ring ? rows : p.length, own_heads * head);
      ops::attention_forward_args<float> forward{};
      forward.q = view, forward.k = keys, forward.sequence_begins = begins, forward.options = of_rank;
      ops::attention_backward_args<float> backward{};
      backward.q = view, backward.k = keys, backward.sequence_begins = begins, backward.options = of_rank;
      if (!trades) forward.part.length = backward.part.length = p.length;
      using device = tenon::device::host;
      auto const within_forward = ops::kernel_for<ops::attention_forward_t, device>::scratch_bytes(forward, 1);
      auto const within_backward = ops::kernel_for<ops::attention_backward_t, device>::scratch_bytes(backward, 1);
      std::vector<std::byte> memory(std::size_t(8) << 20);
      h.exec.scratch().lend(memory);
      auto const used_by = [&](auto&& f) {
        std::fill(memory.begin(), memory.end(), untouched);
        f();
        std::size_t used = memory.size();
        while (used > 0 && memory[used - 1] == untouched) --used;
        return used;
      };
      auto const forward_bytes = used_by([&] { nn::context_attention_forward(pass, o, qkv, out, lse); });
      auto const backward_bytes = used_by([&] {
        nn::context_attention_backward(pass, o, as_const(qkv), as_const(out), as_const(lse), as_const(out), d_qkv);
      });
      auto const own = std::size_t(rows * heads * head) * sizeof(float);  // of q, of k, of v
      auto const state = std::size_t(ops::attention_forward_carried(o, rows)) * sizeof(float);
      if (ring) {
        CHECK(forward_bytes <= state + 2 * (2 * own) + within_forward);
        CHECK(backward_bytes <= 2 * own + 2 * (2 * own) + within_backward);  // dk and dv in fp32, and the chunks
      } else if (!trades) {
        auto const kv = std::size_t(ranks) * 2 * own;
        CHECK(forward_bytes <= kv + own + within_forward);
        CHECK(backward_bytes <= kv + 3 * own + kv / 2 + kv + within_backward);  // dk and dv of two pieces in fp32
      } else {
        CHECK(forward_bytes <= own + std::max(3 * own, within_forward));
        CHECK(backward_bytes <= (2 + 3) * own + std::max(3 * own, within_backward));
      }
    });
  }
}

TEST_CASE("context attention refuses what does not come out even") {
  auto const refused = [](int ranks, problem const& p, char const* text) {
    CHECK_THROWS_WITH_AS(run_on(ranks, p), doctest::Contains(text), argument_error);
  };
  refused(2, {.length = 100}, "2 ranks cannot share a sequence of 100 tokens, which is summed in leaves of 100. Fix");
  refused(4, {.length = 128}, "leaves of 64");
  refused(4, {.kv_heads = 2}, "4 ranks cannot share 2 KV heads. Fix: ");
  refused(8, {.length = 640, .kv_heads = 8, .exchange = nn::context_exchange::ring},
          "8 ranks cannot share a sequence of 640 tokens by a ring");
  refused(8, {.exchange = nn::context_exchange::all_gather}, "whole leaves of 64. Fix: at most 4 ranks, or");
}
