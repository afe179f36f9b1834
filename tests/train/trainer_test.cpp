// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/trainer.hpp>

namespace {
std::atomic<long> heap_allocations{0};
}
// Counts every heap allocation of this executable.
TENON_NOINLINE void* operator new(std::size_t n) {
  ++heap_allocations;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
TENON_NOINLINE void operator delete(void* p) noexcept { std::free(p); }
TENON_NOINLINE void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

using namespace tenon;
constexpr gpt2_config small_gpt{.layers = 2, .width = 48, .heads = 3, .context = 40, .vocabulary = 67};
constexpr llama_config small_llama{
    .layers = 2, .width = 48, .heads = 6, .kv_heads = 2, .hidden = 80, .context = 40, .vocabulary = 67};
using gpt = models::gpt2<small_gpt>;
using llama = models::llama<small_llama>;
constexpr mixtral_config small_mixtral{.layers = 2,
                                       .width = 48,
                                       .heads = 6,
                                       .kv_heads = 2,
                                       .hidden = 40,
                                       .context = 40,
                                       .vocabulary = 67,
                                       .experts = 6,
                                       .capacity_factor = 1.5f};
using mixtral = models::mixtral<small_mixtral>;

struct text {
  std::vector<std::int32_t> tokens, targets;
};
/// A text with structure: the next token is a function of the last one.
text make_text(index_t samples, index_t length, std::uint32_t seed) {
  text t;
  for (index_t s = 0; s < samples; ++s) {
    std::uint32_t token = (seed * 5u + std::uint32_t(s) * 7u) % 67u;
    for (index_t i = 0; i < length; ++i) {
      t.tokens.push_back(std::int32_t(token));
      token = (token * 3u + 1u) % 67u;
      t.targets.push_back(std::int32_t(token));
    }
  }
  return t;
}
train_options options(int threads, index_t accumulate) {
  return {.batch = 4, .accumulate = accumulate, .sequence_length = 32, .learning_rate = 3e-3f, .threads = threads};
}
template <class Trainer>
std::vector<float> train_steps(Trainer& t, int steps, double* last_loss = nullptr) {
  for (int i = 0; i < steps; ++i) {
    auto const batch = make_text(4, 32, std::uint32_t(i));
    auto const r = t.step(batch.tokens, batch.targets);
    if (last_loss) *last_loss = r.loss;
  }
  return t.values();
}
bool same_bits(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
template <class Model, class... Ps>
std::vector<float> run(int threads, index_t accumulate, int steps = 3) {
  trainer<Model, Ps...> t{options(threads, accumulate)};
  return train_steps(t, steps);
}

}  // namespace

TEST_CASE_TEMPLATE("the same bits for every number of threads, micro-batches and every memory policy", Model, gpt,
                   llama, mixtral) {
  auto const expected = run<Model>(1, 1);
  CHECK(same_bits(expected, run<Model>(2, 1)));
  CHECK(same_bits(expected, run<Model>(3, 1)));
  CHECK(same_bits(expected, run<Model>(2, 2)));
  CHECK(same_bits(expected, run<Model>(1, 4)));
  CHECK(same_bits(expected, run<Model, memory::recompute_full>(2, 2)));
  if constexpr (!std::same_as<Model, llama>) CHECK(same_bits(expected, run<Model, memory::recompute_selective>(2, 1)));
  auto const other_seed = [] {
    auto o = options(1, 1);
    o.seed = 2;
    trainer<Model> t{o};
    return train_steps(t, 3);
  }();
  CHECK_FALSE(same_bits(expected, other_seed));
}

TEST_CASE("the same bits when what is saved fills several blocks of memory, gradients' memory included") {
  auto run_with = [](index_t accumulate) {
    constexpr index_t batch = 512;
    auto o = options(2, accumulate);
    o.batch = batch;
    trainer<models::gpt2<>> t{gpt2_config{.layers = 5, .width = 48, .heads = 3, .context = 40, .vocabulary = 67}, o};
    auto const texts = make_text(batch, 32, 1);
    for (int i = 0; i < 2; ++i) t.step(texts.tokens, texts.targets);
    return t.values();
  };
  CHECK(same_bits(run_with(1), run_with(64)));
}

TEST_CASE("a sequence length that no leaf divides keeps the promise") {
  auto run_with = [](int threads, index_t accumulate) {
    auto o = options(threads, accumulate);
    o.sequence_length = 37;
    trainer<gpt> t{o};
    auto const batch = make_text(4, 37, 1);
    t.step(batch.tokens, batch.targets);
    t.step(batch.tokens, batch.targets);
    return t.values();
  };
  auto const expected = run_with(1, 1);
  CHECK(same_bits(expected, run_with(2, 2)));
  CHECK(same_bits(expected, run_with(3, 4)));
}

TEST_CASE("mixed precision has the same bits for every number of threads and memory policy") {
  auto const expected = run<gpt, precision::bf16_mixed>(1, 1);
  CHECK(same_bits(expected, run<gpt, precision::bf16_mixed>(2, 1)));
  CHECK(same_bits(expected, run<gpt, precision::bf16_mixed, memory::recompute_full>(3, 1)));
  CHECK_FALSE(same_bits(expected, run<gpt>(1, 1)));
}

TEST_CASE("dropout depends on the sample, not on how the batch is cut") {
  gpt2_config c = small_gpt;
  c.dropout = 0.2f;
  auto run_with = [&](int threads, index_t accumulate, bool selective) {
    if (selective) {
      trainer<models::gpt2<>, memory::recompute_full> t{c, options(threads, accumulate)};
      return train_steps(t, 2);
    }
    trainer<models::gpt2<>> t{c, options(threads, accumulate)};
    return train_steps(t, 2);
  };
  auto const expected = run_with(1, 1, false);
  CHECK(same_bits(expected, run_with(2, 2, false)));
  CHECK(same_bits(expected, run_with(2, 1, true)));
  CHECK_FALSE(same_bits(expected, run<gpt>(1, 1, 2)));
}

template <class Trainer>
void check_learns(double below, float learning_rate = 3e-3f) {
  auto o = options(2, 1);
  o.learning_rate = learning_rate;
  o.schedule = {.warmup_steps = 5};
  Trainer t{o};
  double first = 0, last = 0;
  train_steps(t, 1, &first);
  train_steps(t, 60, &last);
  CHECK(first == doctest::Approx(std::log(67.0)).epsilon(0.05));
  CHECK(last < below);
}
TEST_CASE("every precision, optimizer and model learns") {
  check_learns<trainer<gpt>>(2.0);
  check_learns<trainer<llama>>(2.0);
  check_learns<trainer<gpt, precision::bf16_mixed>>(2.0);
  check_learns<trainer<llama, precision::fp16_mixed>>(2.0);
  check_learns<trainer<mixtral>>(2.0);
  check_learns<trainer<mixtral, precision::fp16_mixed>>(2.0);
  check_learns<trainer<gpt, optimizer::muon>>(2.0, 0.03f);
}

TEST_CASE("lion and sgd learn at their own rates") {
  auto o = options(2, 1);
  o.learning_rate = 3e-4f;
  trainer<gpt, optimizer::lion> lion{o};
  o.learning_rate = 0.3f;
  trainer<gpt, optimizer::sgd> sgd{o};
  double loss_lion = 0, loss_sgd = 0;
  train_steps(lion, 80, &loss_lion);
  train_steps(sgd, 80, &loss_sgd);
  CHECK(loss_lion < 3.0);
  CHECK(loss_sgd < 3.9);
}

TEST_CASE("the loss of a step is the loss that evaluate gives, and its mean counts targets, not sequences") {
  trainer<gpt> t{options(2, 1)}, u{options(1, 2)};
  auto batch = make_text(4, 32, 5);
  for (std::size_t i = 0; i < 40; ++i) batch.targets[i] = -1;  // sequences with different numbers of targets
  double const before = t.evaluate(batch.tokens, batch.targets);
  auto const r = t.step(batch.tokens, batch.targets);
  CHECK(r.loss == before);
  CHECK(r.targets == 128 - 40);
  CHECK(u.step(batch.tokens, batch.targets).loss == before);
}

TEST_CASE("logits of the last position agree with those of all positions") {
  trainer<llama> t{options(2, 1)};
  auto const batch = make_text(1, 32, 9);
  std::vector<float> all(32 * 67, NAN), last(67, NAN);
  t.all_logits(batch.tokens, matrix(all.data(), 32, 67));
  t.next_logits(batch.tokens, last);
  CHECK(std::memcmp(last.data(), all.data() + 31 * 67, 67 * sizeof(float)) == 0);
  std::vector<std::int32_t> const prefix(batch.tokens.begin(), batch.tokens.begin() + 7);
  t.next_logits(prefix, last);
  CHECK(std::memcmp(last.data(), all.data() + 6 * 67, 67 * sizeof(float)) == 0);
}

TEST_CASE_TEMPLATE("a step allocates nothing after the first", Model, gpt, mixtral) {
  trainer<Model> t{options(2, 2)};
  auto const batch = make_text(4, 32, 1), other = make_text(4, 32, 2);
  t.step(batch.tokens, batch.targets);
  t.step(batch.tokens, batch.targets);
  auto const system = t.system_allocations();
  long const heap = heap_allocations;
  t.step(other.tokens, other.targets);
  CHECK(heap_allocations == heap);
  CHECK(t.system_allocations() == system);
}

// Which uses all experts, so that no token changes its mind between two differences.
using all_experts = models::mixtral<mixtral_config{.layers = 2,
                                                   .width = 48,
                                                   .heads = 6,
                                                   .kv_heads = 2,
                                                   .hidden = 40,
                                                   .context = 40,
                                                   .vocabulary = 67,
                                                   .experts = 3,
                                                   .experts_per_token = 3}>;
TEST_CASE_TEMPLATE("gradients agree with differences of the loss", Model, llama, all_experts) {
  auto o = options(2, 1);
  o.learning_rate = 0;
  trainer<Model> t{o};
  auto const batch = make_text(4, 32, 3);
  t.step(batch.tokens, batch.targets);
  std::vector<float> const g(t.last_gradients().begin(), t.last_gradients().end());
  // Along the gradient itself, per tensor: large enough to see in fp32.
  for (auto const& spec : t.parameter_list()) {
    CAPTURE(spec.name);
    std::vector<float> p(std::size_t(spec.size()));
    t.read(state_kind::parameters, spec, p);
    double square = 0;
    for (index_t i = 0; i < spec.size(); ++i)
      square += double(g[std::size_t(spec.offset + i)]) * g[std::size_t(spec.offset + i)];
    auto const saved = p;
    double loss[2];
    float const h = float(0.01 / std::sqrt(square));
    for (int side = 0; side < 2; ++side) {
      for (std::size_t i = 0; i < p.size(); ++i) p[i] = saved[i] + (side ? -h : h) * g[std::size_t(spec.offset) + i];
      t.write(state_kind::parameters, spec, p);
      loss[side] = t.evaluate(batch.tokens, batch.targets);
    }
    t.write(state_kind::parameters, spec, saved);
    CHECK((loss[0] - loss[1]) / (2 * double(h)) == doctest::Approx(square).epsilon(0.02));
  }
}

TEST_CASE("options that do not fit are refused with a sentence") {
  auto o = options(1, 3);
  CHECK_THROWS_WITH_AS((trainer<gpt>{o}), doctest::Contains("not a multiple of accumulate 3"), argument_error);
  o = options(1, 2);
  o.batch = 6;
  CHECK_THROWS_WITH_AS((trainer<gpt>{o}), doctest::Contains("power of two"), argument_error);
  o = options(1, 1);
  o.sequence_length = 41;
  CHECK_THROWS_WITH_AS((trainer<gpt>{o}), doctest::Contains("context"), argument_error);
  CHECK_THROWS_AS(
      (trainer<models::gpt2<>>{gpt2_config{.layers = 1, .width = 10, .heads = 3, .context = 8}, options(1, 1)}), error);
  trainer<gpt> t{options(1, 1)};
  auto batch = make_text(4, 32, 1);
  batch.tokens[3] = 67;
  CHECK_THROWS_WITH_AS(t.step(batch.tokens, batch.targets), doctest::Contains("token 67"), argument_error);
  batch.tokens.pop_back();
  CHECK_THROWS_WITH_AS(t.step(batch.tokens, batch.targets), doctest::Contains("expected 128"), argument_error);
}

TEST_CASE("published parameter counts") {
  auto count = [](auto const& network) {
    std::vector<nn::parameter_spec> specs;
    nn::binder<float const> b(&specs);
    network.bind(b);
    index_t n = 0;
    for (auto const& s : specs) n += s.size();
    return n;
  };
  gpt2_config c = models::gpt2_124m::config;
  CHECK(count(models::gpt2<>::network<arithmetic::bitwise>(c)) == 124439808 + (50304 - 50257) * 768);
  llama_config const seven_billion{.layers = 32, .width = 4096, .heads = 32, .hidden = 11008, .context = 2048};
  CHECK(count(models::llama<>::network<arithmetic::bitwise>(seven_billion)) == 6738415616);
}
