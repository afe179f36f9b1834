// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <tenon/comm/threads.hpp>
#include <tenon/infer/engine.hpp>
#include <tenon/io/sha256.hpp>
#include <tenon/models/gemma.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/trainer.hpp>

using namespace tenon;

namespace {

using any_engine = engine<models::any>;
constexpr index_t length = 96, vocabulary = 67;
using gpt = models::gpt2<gpt2_config{.layers = 2, .width = 48, .heads = 3, .context = 128, .vocabulary = vocabulary}>;
using llama = models::llama<llama_config{.layers = 2,
                                         .width = 48,
                                         .heads = 6,
                                         .kv_heads = 2,
                                         .hidden = 80,
                                         .context = 128,
                                         .vocabulary = vocabulary,
                                         .head_width = 16,
                                         .head_norm = true}>;
using gemma = models::gemma3<gemma3_config{.layers = 4,
                                           .width = 48,
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_width = 16,
                                           .hidden = 80,
                                           .context = 128,
                                           .vocabulary = vocabulary,
                                           .window = 20,
                                           .pattern = 3}>;
using mixture = models::mixtral<mixtral_config{.layers = 2,
                                               .width = 48,
                                               .heads = 6,
                                               .kv_heads = 2,
                                               .hidden = 64,
                                               .context = 128,
                                               .vocabulary = vocabulary,
                                               .experts = 5,
                                               .head_width = 16,
                                               .head_norm = true}>;

std::vector<std::int32_t> words(index_t n, std::int32_t seed) {
  std::vector<std::int32_t> t;
  for (index_t i = 0; i < n; ++i) t.push_back(std::int32_t((seed * 7 + i * i + i / 3) % vocabulary));
  return t;
}
/// A checkpoint of a model that has learnt for two steps, and the logits that its trainer gives for `words(length, 1)`.
struct trained {
  std::filesystem::path folder;
  std::vector<float> logits;
};
template <class Model>
trained const& checkpoint_of() {
  static trained const one = [] {
    trainer<Model> t{{.batch = 2, .sequence_length = length, .learning_rate = 1e-2f, .threads = 1}};
    auto const tokens = words(2 * length, 3), targets = words(2 * length, 4);
    for (int i = 0; i < 2; ++i) t.step(tokens, targets);
    trained r{
        save_checkpoint(t, std::filesystem::temp_directory_path() / (std::string("tenon-engine-test-") + Model::name)),
        std::vector<float>(std::size_t(length * vocabulary))};
    t.all_logits(words(length, 1), matrix(r.logits.data(), length, vocabulary));
    return r;
  }();
  return one;
}

/// What a request got: a digest of its tokens and of all logits that they were drawn from.
struct outcome {
  std::vector<std::int32_t> tokens;
  std::string digest;
  bool operator==(outcome const&) const = default;
};
std::vector<infer::generation> requests() {
  std::vector<infer::generation> all;
  for (int i = 0; i < 7; ++i) {
    infer::generation g{.prompt = words(1 + 13 * i % 50, i < 3 ? 1 : i), .max_tokens = 12 + i};
    g.sampling = {.temperature = i % 2 ? 0.0f : 0.9f, .top_k = 20, .seed = std::uint64_t(i)};
    if (i == 4) g.sampling.repetition_penalty = 1.3f;
    all.push_back(g);
  }
  return all;
}
template <class Engine>
std::vector<outcome> serve(Engine& e, std::vector<infer::generation> const& all) {
  std::vector<outcome> results(all.size());
  std::vector<io::sha256> digests(all.size());
  for (std::size_t i = 0; i < all.size(); ++i)
    e.submit(all[i], [&, i](infer::new_token const& t) {
      results[i].tokens.push_back(t.token);
      digests[i].update(t.logits.data(), t.logits.size_bytes());
      return true;
    });
  while (e.step()) {
  }
  for (std::size_t i = 0; i < all.size(); ++i) results[i].digest = digests[i].finish_hex();
  return results;
}

}  // namespace

TEST_CASE_TEMPLATE("the engine's logits are the trainer's, in whole and in chunks", Model, gpt, llama, gemma, mixture) {
  auto const& from = checkpoint_of<Model>();
  auto const tokens = words(length, 1);
  for (index_t budget : {index_t(512), index_t(7)}) {
    any_engine e{from.folder, {.longest = 128, .token_budget = budget, .max_sequences = 4, .threads = 2}};
    for (index_t n : {index_t(1), index_t(20), index_t(21), index_t(64), length}) {
      std::vector<float> logits;
      e.submit({.prompt = {tokens.begin(), tokens.begin() + n}, .max_tokens = 1, .wants_log_probabilities = true},
               [&](infer::new_token const& t) {
                 logits.assign(t.logits.begin(), t.logits.end());
                 return true;
               });
      while (e.step()) {
      }
      REQUIRE(logits.size() == std::size_t(vocabulary));
      CAPTURE(n);
      CHECK(std::memcmp(logits.data(), from.logits.data() + (n - 1) * vocabulary, logits.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE_TEMPLATE("a request gets the same bits alone and in any company", Model, llama, gemma, mixture) {
  auto const& folder = checkpoint_of<Model>().folder;
  auto const all = requests();
  std::vector<outcome> alone;
  for (auto const& r : all) {
    any_engine e{folder, {.longest = 128, .threads = 1}};
    alone.push_back(serve(e, {r})[0]);
  }
  auto const check = [&](auto&& e) {
    CHECK(serve(e, all) == alone);
    CHECK(serve(e, all) == alone);  // now with prefixes that are known
  };
  check(any_engine{folder, {.longest = 128, .threads = 2}});
  check(any_engine{folder, {.longest = 128, .token_budget = 8, .max_sequences = 5, .threads = 2}});
  if constexpr (std::same_as<Model, gemma>) {
    check(engine<Model, kv::paged<32>>{folder, {.longest = 128, .token_budget = 9, .max_sequences = 3, .threads = 1}});
    check(engine<Model, kv::contiguous>{folder, {.longest = 128, .threads = 1}});
  }
  // A cache so small that sequences must give way to others.
  engine_options const tight{.longest = 80,
                             .cache_tokens = 96,
                             .token_budget = 16,
                             .max_sequences = 7,
                             .swap_tokens = 80,
                             .threads = 1};
  check(any_engine{folder, tight});
  check(engine<models::any, preemption::swap>{folder, tight});
}

TEST_CASE("speculation changes the number of steps and nothing else") {
  any_engine e{checkpoint_of<llama>().folder, {.longest = 128, .threads = 1}};
  auto all = requests();
  for (auto& r : all) {
    for (int i = 0; i < 20; ++i) r.prompt.push_back(std::int32_t(i % 5));
    r.max_tokens = 40;
  }
  auto const steps = [&](index_t drafts) {
    for (auto& r : all) r.drafts = drafts;
    int n = 0;
    std::vector<outcome> results(all.size());
    for (std::size_t i = 0; i < all.size(); ++i)
      e.submit(all[i], [&, i](infer::new_token const& t) {
        results[i].tokens.push_back(t.token);
        results[i].digest += std::to_string(std::bit_cast<std::int32_t>(t.logits[std::size_t(t.token)])) + " ";
        return true;
      });
    while (e.step()) ++n;
    return std::pair(n, results);
  };
  CHECK(steps(4).second == steps(0).second);
  for (auto& r : all) r.sampling = {.temperature = 0};  // so small a model repeats itself soon
  auto const without = steps(0), with = steps(4);
  CHECK(with.second == without.second);
  CHECK(with.first < without.first);
}

TEST_CASE("tensor ranks give the bits of one") {
  auto const& folder = checkpoint_of<mixture>().folder;
  auto const all = requests();
  engine<mixture> one{folder, {.longest = 128, .threads = 1}};
  auto const alone = serve(one, all);
  std::vector<std::vector<outcome>> by_rank(2);
  comm::threads::run(2, [&](comm::threads& world) {
    engine<mixture, tensor<2>, comm::threads> e{world,
                                                folder,
                                                {.longest = 128, .token_budget = 20, .max_sequences = 4}};
    by_rank[std::size_t(world.rank())] = serve(e, all);
  });
  for (auto const& r : by_rank) CHECK(r == alone);
}

TEST_CASE("samples of one prompt differ, and each is what it is alone") {
  any_engine e{checkpoint_of<llama>().folder, {.longest = 128, .threads = 1}};
  std::map<index_t, std::vector<std::int32_t>> samples;
  auto const ask = [&](index_t n) {
    samples.clear();
    e.submit({.prompt = words(30, 2), .max_tokens = 10, .sampling = {.seed = 5}, .samples = n},
             [&](infer::new_token const& t) {
               samples[t.sample].push_back(t.token);
               return true;
             });
    while (e.step()) {
    }
    return samples;
  };
  auto const four = ask(4), one = ask(1);
  CHECK(four.size() == 4);
  CHECK(four.at(0) == one.at(0));
  CHECK(four.at(1) != four.at(2));
}

TEST_CASE("requests that cannot be served are refused, and the others go on") {
  any_engine e{checkpoint_of<gpt>().folder, {.longest = 64, .threads = 1}};
  auto const nobody = [](infer::new_token const&) { return true; };
  int came = 0;
  e.submit({.prompt = {1, 2, 3}, .max_tokens = 5}, [&](infer::new_token const&) { return ++came > 0; });
  CHECK_THROWS_WITH_AS(e.submit({.prompt = {1, 67}}, nobody), doctest::Contains("the prompt has the token 67"),
                       argument_error);
  CHECK_THROWS_WITH_AS(e.submit({.prompt = words(60, 1), .max_tokens = 5}, nobody),
                       doctest::Contains("a prompt of 60 tokens and 5 new ones"), argument_error);
  CHECK_THROWS_WITH_AS(e.submit({.prompt = {}, .max_tokens = 1}, nobody), doctest::Contains("no prompt"),
                       argument_error);
  CHECK_THROWS_WITH_AS(e.submit({.prompt = {1}, .sampling = {.temperature = -1}}, nobody),
                       doctest::Contains("temperature"), argument_error);
  while (e.step()) {
  }
  CHECK(came == 5);
  CHECK_THROWS_WITH_AS(engine<llama>(checkpoint_of<gpt>().folder), doctest::Contains("is a gpt2, not a llama"),
                       file_error);
  auto const id = e.submit({.prompt = {1, 2}, .max_tokens = 20}, nobody);
  e.step();
  e.cancel(id);
  CHECK_FALSE(e.step());
}

TEST_CASE("a sink may submit, cancel and throw, and a request that forbids every token ends alone") {
  any_engine e{checkpoint_of<gpt>().folder, {.longest = 64, .threads = 1}};
  auto const run = [&] {
    while (e.step()) {
    }
  };
  std::vector<std::int32_t> expected;
  e.submit({.prompt = {1, 2, 3}, .max_tokens = 9, .sampling = {.seed = 1}}, [&](infer::new_token const& t) {
    expected.push_back(t.token);
    return true;
  });
  run();
  std::vector<std::int32_t> tokens;
  int others = 0, cancelled = 0;
  infer::request_id endless = 0;
  e.submit({.prompt = {1, 2, 3}, .max_tokens = 9, .sampling = {.seed = 1}}, [&](infer::new_token const& t) {
    tokens.push_back(t.token);
    // Many, so that the table of requests grows while this one draws.
    for (int i = 0; i < 20; ++i)
      e.submit({.prompt = {4}, .max_tokens = 1}, [&](infer::new_token const&) { return ++others > 0; });
    if (tokens.size() == 4) e.cancel(endless);
    return true;
  });
  endless = e.submit({.prompt = {5}, .max_tokens = 60}, [&](infer::new_token const& t) {
    cancelled += t.end == infer::finish::cancelled;
    return true;
  });
  run();
  CHECK(tokens == expected);
  CHECK(others == 9 * 20);
  CHECK(cancelled == 1);

  tokens.clear();
  std::vector<infer::finish> ends;
  {
    std::vector<ops::token_value> nothing;
    for (std::int32_t t = 0; t < vocabulary; ++t) nothing.push_back({t, -INFINITY});
    e.submit({.prompt = {7}, .max_tokens = 5, .sampling = {.bias = nothing}, .samples = 2},
             [&](infer::new_token const& t) {
               ends.push_back(t.end);
               return true;
             });
  }  // the engine keeps a copy of the list
  e.submit({.prompt = {6}, .max_tokens = 5}, [](infer::new_token const&) -> bool { throw std::runtime_error("mine"); });
  e.submit({.prompt = {1, 2, 3}, .max_tokens = 9, .sampling = {.seed = 1}}, [&](infer::new_token const& t) {
    tokens.push_back(t.token);
    return true;
  });
  CHECK_THROWS_WITH_AS(e.step(), "mine", std::runtime_error);
  run();
  CHECK(tokens == expected);
  CHECK(ends == std::vector{infer::finish::failed, infer::finish::failed});
}
