// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <span>
#include <vector>

#include <tenon/infer/seen_tokens.hpp>
#include <tenon/infer/speculation.hpp>
#include <tenon/ops/host/sample.hpp>

namespace {
using namespace tenon;
using namespace tenon::infer;
using text = std::vector<std::int32_t>;

text drafts_of(text const& t, index_t count, index_t shortest = 2, index_t longest = 4) {
  text drafts(std::size_t(count), -1);
  drafts.resize(std::size_t(ngram_draft(t, drafts, shortest, longest)));
  return drafts;
}

/// A model of 40 tokens: logits that depend on the last three tokens, and now and then leave one choice.
void logits_after(std::span<std::int32_t const> t, float* logits) {
  unsigned h = 1;
  for (auto const token : t.last(std::min<std::size_t>(3, t.size()))) h = h * 31 + unsigned(token);
  std::mt19937 random(h);
  for (int i = 0; i < 40; ++i) logits[i] = float(random() % 1000) * (h % 2 ? 0.001f : 0.02f);
}
}  // namespace

TEST_SUITE("speculation") {
  TEST_CASE("drafts are what came after the same tokens") {
    CHECK(drafts_of({1, 2, 3, 4, 5, 1, 2}, 3) == text{3, 4, 5});
    CHECK(drafts_of({1, 2, 3, 9, 1, 2, 4, 7, 1, 2}, 2) == text{4, 7});              // the latest of equally long ones
    CHECK(drafts_of({5, 1, 2, 3, 9, 1, 2, 4, 5, 1, 2}, 2) == text{3, 9});           // a longer one is better
    CHECK(drafts_of({6, 1, 2, 3, 9, 1, 2}, 9) == text{3, 9, 1, 2, 3, 9, 1, 2, 3});  // and so on
    CHECK(drafts_of({4, 4, 4}, 4) == text{4, 4, 4, 4});
    CHECK(drafts_of({1, 2, 3, 2}, 2).empty());
    CHECK(drafts_of({1, 2, 3, 2}, 2, 1) == text{3, 2});
    CHECK(drafts_of({1}, 2).empty());
    CHECK(drafts_of({}, 2).empty());
  }

  TEST_CASE("sampled text is the same with drafts and without, penalties included") {
    exec::host_context ctx(1);
    for (ops::sampling_options const& o : {ops::sampling_options{.temperature = 0},
                                           {.temperature = 0.7f, .seed = 3},
                                           {.top_p = 0.8f, .frequency_penalty = 0.2f, .seed = 4}}) {
      auto const draw = [&](text const& t, seen_tokens const& seen) {
        std::vector<float> logits(40);
        logits_after(t, logits.data());
        ops::sample_row row{.logits = logits.data(), .options = &o, .position = t.size(), .seen = seen.list()};
        ops::sample(ctx, ops::sample_args{.rows = {&row, 1}, .vocabulary = 40});
        return row.token;
      };
      text const prompt{1, 2, 3};
      text plain = prompt, fast = prompt;
      seen_tokens plain_seen(prompt, 300), fast_seen(prompt, 300);
      while (plain.size() < 200) {
        plain.push_back(draw(plain, plain_seen));
        plain_seen.add(plain.back());
      }
      int steps = 0;
      while (fast.size() < 200) {
        auto const drafts = drafts_of(fast, 5, 1);
        // The sampler sees each place as if the drafts before it held.
        text supposed = fast, drawn;
        auto supposed_seen = fast_seen;
        for (std::size_t i = 0; i <= drafts.size(); ++i) {
          drawn.push_back(draw(supposed, supposed_seen));
          if (i == drafts.size()) break;
          supposed.push_back(drafts[i]);
          supposed_seen.add(drafts[i]);
        }
        auto const holds = std::mismatch(drafts.begin(), drafts.end(), drawn.begin()).first - drafts.begin();
        for (auto const token : std::span(drawn).first(std::size_t(holds) + 1)) {
          fast.push_back(token);
          fast_seen.add(token);
        }
        ++steps;
      }
      fast.resize(200);
      CHECK(fast == plain);
      CHECK(steps < 197);
    }
  }

  TEST_CASE("seen tokens are listed once") {
    text const prompt{5, 3, 5};
    seen_tokens seen(prompt, 10);
    for (int const t : {3, 8, 3}) seen.add(t);
    auto const list = seen.list();
    REQUIRE(list.size() == 3);
    CHECK((list[0].token == 3 && list[0].generated == 2));
    CHECK((list[1].token == 5 && list[1].generated == 0));
    CHECK((list[2].token == 8 && list[2].generated == 1));
  }
}
