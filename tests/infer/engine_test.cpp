// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <tenon/comm/threads.hpp>
#include <tenon/infer/engine.hpp>
#include <tenon/infer/stop.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/io/sha256.hpp>
#include <tenon/models/gemma.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/trainer.hpp>

namespace {
std::atomic<long> heap_allocations{0};
}
// Counts every heap allocation of this executable, on all threads.
TENON_NOINLINE void* operator new(std::size_t n, std::nothrow_t const&) noexcept {
  ++heap_allocations;
  return std::malloc(n ? n : 1);
}
TENON_NOINLINE void* operator new(std::size_t n) {
  if (void* p = operator new(n, std::nothrow)) return p;
  throw std::bad_alloc();
}
TENON_NOINLINE void operator delete(void* p) noexcept { std::free(p); }
TENON_NOINLINE void operator delete(void* p, std::size_t) noexcept { std::free(p); }

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
/// A model of fewer tokens than that of the checkpoint: without the last ones.
std::filesystem::path with_fewer_tokens(std::filesystem::path const& from, index_t count) {
  auto const to = from.parent_path() / "fewer-tokens";
  std::filesystem::create_directory(to);
  auto state = nlohmann::json::parse(std::ifstream(from / "state.json"));
  state["config"]["vocabulary"] = count;
  std::ofstream(to / "state.json") << state.dump();
  io::safetensors_file const whole(from / "model.safetensors");
  std::vector<io::tensor_to_write> tensors;
  for (auto const& [name, t] : whole.tensors()) {
    tensors.push_back({name, t.dtype, t.shape, t.bytes.data()});
    if (t.shape[0] == vocabulary) tensors.back().shape[0] = count;
  }
  io::write_safetensors(to / "model.safetensors", tensors);
  return to;
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
  auto all = requests();
  for (auto& r : all) {
    for (int i = 0; i < 20; ++i) r.prompt.push_back(std::int32_t(i % 5));
    r.max_tokens = 40;
  }
  auto const steps = [&](std::filesystem::path const& model, index_t drafts, engine_options o = {}) {
    o.longest = 128, o.threads = 1;
    engine<models::any> e{model, o};
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
  auto const &a_gpt = checkpoint_of<gpt>().folder, &a_llama = checkpoint_of<llama>().folder,
             &a_gemma = checkpoint_of<gemma>().folder;
  for (auto const& model : {a_llama, a_gemma}) {
    auto const expected = steps(model, 0).second;
    CHECK(steps(model, 4).second == expected);
    for (auto const& draft : {a_gpt, a_llama, a_gemma}) {
      CHECK(steps(model, 4, {.draft_model = draft}).second == expected);
      // So small a cache that sequences give way and drafts find no pages.
      CHECK(
          steps(model, 3, {.cache_tokens = 128, .token_budget = 16, .max_sequences = 7, .draft_model = draft}).second ==
          expected);
    }
  }
  all[4].sampling.repetition_penalty = 1;  // drafts are drawn as if earlier ones had not been seen
  CHECK(steps(a_gemma, 4, {.draft_model = a_gemma}).first == 1 + 8);  // every guess holds: 5 tokens a step, of 39
  CHECK(steps(a_gemma, 4, {.draft_model = a_llama}).first > 9);
  // Many guesses that do not hold: those after them would be worse if their keys and values stayed.
  for (auto& r : all) r.sampling = {.temperature = 0, .frequency_penalty = 3};
  CHECK(steps(a_gemma, 4, {.draft_model = a_gemma}).first < 22);
  for (auto& r : all) r.sampling = {.temperature = 0};  // so small a model repeats itself soon
  CHECK(steps(a_llama, 4).first < steps(a_llama, 0).first);
  CHECK_THROWS_WITH_AS((engine<models::any>{a_llama, {.draft_model = with_fewer_tokens(a_gpt, 60)}}),
                       doctest::Contains("has a vocabulary of 60 tokens, and the model's has 67"), argument_error);
}

TEST_CASE("tensor ranks give the bits of one") {
  auto const& folder = checkpoint_of<mixture>().folder;
  auto const all = requests();
  engine<mixture> one{folder, {.longest = 128, .threads = 1}};
  auto const alone = serve(one, all);
  auto guessed = all;
  for (auto& r : guessed) r.drafts = 3;
  std::vector<std::vector<outcome>> by_rank(2), with_drafts(2);
  comm::threads::run(2, [&](comm::threads& world) {
    engine<mixture, tensor<2>, comm::threads> e{
        world,
        folder,
        {.longest = 128, .token_budget = 20, .max_sequences = 4, .draft_model = folder}};
    by_rank[std::size_t(world.rank())] = serve(e, all);
    with_drafts[std::size_t(world.rank())] = serve(e, guessed);
  });
  for (auto const& r : by_rank) CHECK(r == alone);
  for (auto const& r : with_drafts) CHECK(r == alone);
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
    if (t.end != infer::finish::cancelled) return true;
    ++cancelled;
    e.cancel(endless);  // again: nothing is left of it
    for (int i = 0; i < 20; ++i)
      e.cancel(e.submit({.prompt = {4}, .max_tokens = 1}, [&](infer::new_token const&) { return ++others > 0; }));
    return true;
  });
  run();
  CHECK(tokens == expected);
  CHECK(others == 10 * 20);
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

TEST_CASE_TEMPLATE("tokens of sequences that are under way take no memory, on any thread", Model, llama, gemma) {
  auto const& folder = checkpoint_of<Model>().folder;
  engine<models::any> e{folder, {.longest = 128, .cache_tokens = 1024, .threads = 2, .draft_model = folder}};
  text::tokenizer const words(text::byte_vocabulary());
  auto const serve_all = [&] {
    auto all = requests();
    std::vector<text::detokenizer> pieces(all.size(), text::detokenizer(words));
    std::vector<infer::stop_check> ends(all.size(), infer::stop_check({.max_new_tokens = 100, .strings = {"tenon"}}));
    long characters = 0, worst = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i].max_tokens = 70;
      all[i].wants_log_probabilities = true;
      all[i].likeliest = 3;
      all[i].drafts = i < 3 ? 4 : 0;
      e.submit(all[i], [&, i](infer::new_token const& t) {
        characters += long(ends[i].push(t.token, pieces[i].push(t.token)).size());
        return true;
      });
    }
    e.step();  // begins them all
    for (long before = heap_allocations; e.step(); before = heap_allocations)
      worst = std::max(worst, heap_allocations - before);
    CHECK(characters > 7 * 60);
    return worst;
  };
  serve_all();
  auto const blocks = e.context().scratch().system_allocations();
  CHECK(serve_all() == 0);
  CHECK(e.context().scratch().system_allocations() == blocks);
}

namespace {

using text_tokens = std::vector<std::int32_t>;
struct scored_text {
  text_tokens tokens;
  float sum;  ///< of log-probabilities
  double score;
};
std::vector<float> log_probabilities_after(engine<models::any>& e, text_tokens const& text) {
  std::vector<float> all(std::size_t(vocabulary), 0.0f);
  e.submit({.prompt = text, .max_tokens = 1, .likeliest = vocabulary}, [&](infer::new_token const& t) {
    for (auto const& l : t.likeliest) all[std::size_t(l.token)] = l.value;
    return true;
  });
  while (e.step()) {
  }
  return all;
}
bool is_stop(infer::generation const& g, std::int32_t token) {
  return std::find(g.stop_tokens.begin(), g.stop_tokens.end(), token) != g.stop_tokens.end();
}
/// All texts that are one token longer.
std::vector<scored_text> longer(engine<models::any>& e, infer::generation const& g,
                                std::vector<scored_text> const& texts) {
  std::vector<scored_text> all;
  for (auto const& from : texts) {
    auto whole = g.prompt;
    whole.insert(whole.end(), from.tokens.begin(), from.tokens.end());
    auto const p = log_probabilities_after(e, whole);
    for (std::int32_t t = 0; t < vocabulary; ++t) {
      all.push_back({from.tokens, from.sum + p[std::size_t(t)], 0});
      all.back().tokens.push_back(t);
      all.back().score = double(all.back().sum) / std::pow(double(all.back().tokens.size()), double(g.length_penalty));
    }
  }
  return all;
}
template <class Number>
void sort_by(std::vector<scored_text>& texts, Number scored_text::*number, std::size_t most) {
  std::stable_sort(texts.begin(), texts.end(), [&](auto const& a, auto const& b) { return a.*number > b.*number; });
  texts.resize(std::min(texts.size(), most));
}
/// Every text that there can be.
std::vector<text_tokens> best_of_all(engine<models::any>& e, infer::generation const& g) {
  std::vector<scored_text> ended, open{{{}, 0, 0}};
  for (index_t length = 1; length <= g.max_tokens; ++length) {
    auto const all = longer(e, g, std::exchange(open, {}));
    for (auto const& t : all) (length == g.max_tokens || is_stop(g, t.tokens.back()) ? ended : open).push_back(t);
  }
  sort_by(ended, &scored_text::score, std::size_t(g.samples));
  std::vector<text_tokens> texts;
  for (auto const& t : ended) texts.push_back(t.tokens);
  return texts;
}
/// The steps of Hugging Face's _beam_search, with the whole text of each beam read anew for each token.
std::vector<text_tokens> plain_beam_search(engine<models::any>& e, infer::generation const& g) {
  auto const n = std::size_t(g.beams);
  std::vector<scored_text> ended, beams{{{}, 0, 0}};
  for (index_t length = 1; length <= g.max_tokens && !beams.empty(); ++length) {
    auto all = longer(e, g, std::exchange(beams, {}));
    sort_by(all, &scored_text::sum, std::max<std::size_t>(2, 1 + g.stop_tokens.size()) * n);
    for (std::size_t rank = 0; rank < all.size() && beams.size() < n; ++rank)
      if (!is_stop(g, all[rank].tokens.back())) beams.push_back(all[rank]);
      else if (rank < n) ended.push_back(all[rank]);
    sort_by(ended, &scored_text::score, n);
    if (ended.size() < n || beams.empty() || length == g.max_tokens) continue;
    bool const longest = g.early_stopping == infer::early_stopping::never && g.length_penalty > 0;
    double const reachable =
        double(beams[0].sum) / std::pow(double(longest ? g.max_tokens : length), double(g.length_penalty));
    if (g.early_stopping == infer::early_stopping::yes || ended.back().score >= reachable) beams.clear();
  }
  ended.insert(ended.end(), beams.begin(), beams.end());
  sort_by(ended, &scored_text::score, std::size_t(g.samples));
  std::vector<text_tokens> texts;
  for (auto const& t : ended) texts.push_back(t.tokens);
  return texts;
}

}  // namespace

TEST_CASE("beam search finds what plain searches find") {
  auto const& folder = checkpoint_of<llama>().folder;
  engine<models::any> alone{folder, {.longest = 128, .threads = 1}};
  engine<models::any> e{folder, {.longest = 96, .cache_tokens = 1200, .max_sequences = 70, .threads = 1}};
  engine<models::any> tight{folder, {.longest = 96, .cache_tokens = 192, .token_budget = 9, .max_sequences = 8}};
  auto const nobody = [](infer::new_token const&) { return true; };
  auto const search = [&](engine<models::any>& in, infer::generation const& g) {
    std::vector<text_tokens> texts(std::size_t(g.samples));
    std::vector<infer::finish> ends(texts.size(), infer::finish::no);
    in.submit({.prompt = words(20, 5), .max_tokens = 20}, nobody);
    in.submit(g, [&](infer::new_token const& t) {
      CHECK(std::exchange(ends[std::size_t(t.sample)], t.end) == infer::finish::no);
      texts[std::size_t(t.sample)].push_back(t.token);
      return true;
    });
    in.submit({.prompt = words(7, 5), .max_tokens = 30, .samples = 2}, nobody);
    while (in.step()) {
    }
    for (std::size_t i = 0; i < texts.size(); ++i)
      CHECK(ends[i] == (is_stop(g, texts[i].back()) ? infer::finish::stopped : infer::finish::length));
    return texts;
  };
  // With a beam for every beginning, nothing is overlooked.
  infer::generation g{.prompt = words(9, 2),
                      .max_tokens = 2,
                      .samples = 5,
                      .stop_tokens = {3, 40},
                      .beams = vocabulary};
  for (float const penalty : {0.0f, 1.0f, 2.0f}) {
    g.length_penalty = penalty;
    CHECK(search(e, g) == best_of_all(alone, g));
  }
  std::set<std::vector<text_tokens>> different;
  for (int seed = 0; seed < 4; ++seed)
    for (float const penalty : {0.0f, 1.0f})
      for (auto const early : {infer::early_stopping::no, infer::early_stopping::yes, infer::early_stopping::never}) {
        g = {.prompt = words(30, seed),
             .max_tokens = 14,
             .samples = 3,
             .stop_tokens = words(32, 6),
             .beams = 3,
             .length_penalty = penalty,
             .early_stopping = early};
        if (seed == 3) {  // the likeliest tokens all end a text, and beams come from further down
          auto likeliest = longer(alone, g, {{{}, 0, 0}});
          sort_by(likeliest, &scored_text::sum, 8);
          g.stop_tokens.clear();
          for (auto const& t : likeliest) g.stop_tokens.push_back(t.tokens[0]);
        }
        CAPTURE(seed);
        CAPTURE(penalty);
        CAPTURE(int(early));
        auto const expected = plain_beam_search(alone, g);
        CHECK(search(e, g) == expected);
        CHECK(search(tight, g) == expected);
        different.insert(expected);
      }
  CHECK(different.size() > 8);  // when it stops matters

  CHECK_THROWS_WITH_AS(e.submit({.prompt = {1}, .max_tokens = 9, .samples = 3, .beams = 2}, nobody),
                       doctest::Contains("3 samples and 2 beams"), argument_error);
  int cancelled = 0;
  g.max_tokens = 50, g.early_stopping = infer::early_stopping::never, g.stop_tokens = {};
  auto const id =
      e.submit(g, [&](infer::new_token const& t) { return cancelled += t.end == infer::finish::cancelled, true; });
  for (int i = 0; i < 5; ++i) e.step();
  e.cancel(id);
  CHECK(cancelled == 3);
  CHECK_FALSE(e.step());
}
