// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <ref/sample.hpp>
#include <ref/values.hpp>
#include <string>

#include <tenon/ops/host/cross_entropy.hpp>
#include <tenon/ops/host/sample.hpp>

namespace {

using namespace tenon;
using ops::sample_row, ops::sampling_options, ops::token_value, ops::seen_token;

exec::host_context ctx{3};

sample_row drawn(sample_row r, index_t vocabulary) {
  ops::sample(ctx, ops::sample_args{.rows = {&r, 1}, .vocabulary = vocabulary});
  return r;
}
std::int32_t drawn(std::vector<float> const& logits, sampling_options const& o, std::uint64_t position) {
  return drawn({.logits = logits.data(), .options = &o, .position = position}, index_t(logits.size())).token;
}
/// Uniform, or with the long tail that models have; some logits are equal.
std::vector<float> logits_of(index_t n, unsigned seed, double range, bool tail) {
  auto x = ref::random_values(n, seed, range);
  for (auto& v : x) v = std::round(64 * v) / 64;
  if (tail)
    for (auto& v : x) v = v * std::abs(v);
  return x;
}
std::string message_of(sampling_options const& o, sample_row r = {}) {
  std::vector<float> const logits(10);
  r.logits = logits.data();
  r.options = &o;
  try {
    drawn(r, 10);
  } catch (argument_error const& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_SUITE("sample") {
  TEST_CASE("the very token that sorting in double gives for the same random number") {
    index_t compared = 0, all = 0;
    for (index_t n : {1, 2, 15, 16, 17, 255, 256, 257, 1000, 4099, 40000})
      for (unsigned seed = 0; seed < (n > 10000 ? 60u : 300u); ++seed) {
        auto const logits = logits_of(n, seed + unsigned(n), seed % 3 == 0 ? 1 : 4, seed % 2 == 0);
        auto const pick = ref::random_values(8, 1000 * seed + unsigned(n), 0.5);  // in [-0.5, 0.5]
        auto const at = [&](std::size_t i) { return pick[i] + 0.5f; };
        std::vector<token_value> bias;
        std::vector<seen_token> seen;
        std::vector<std::uint32_t> allowed;
        if (seed % 5 == 1)
          for (index_t t = 0; t < n; t += 7) bias.push_back({std::int32_t(t), float(t % 3) - 1});
        if (seed % 7 == 2)
          for (index_t t = 0; t < n; t += 3) seen.push_back({std::int32_t(t), std::int32_t(t % 4)});
        if (seed % 11 == 3)
          for (index_t w = 0; w < ceil_div(n, 32); ++w)
            allowed.push_back(w % 3 == 0 ? 0xffffffffu : w % 3 == 1 ? 0x5a5a0f01u : 0u);
        sampling_options const o{.temperature = 0.1f + 2 * at(0),
                                 .top_k = seed % 4 < 2 ? 0 : 1 + index_t(float(n) * at(1) * at(1)),
                                 .top_p = seed % 6 < 2 ? 1.0f : at(2),
                                 .min_p = seed % 8 < 5 ? 0.0f : at(3) * at(4) * 0.5f,
                                 .repetition_penalty = 1 + at(5),
                                 .presence_penalty = at(6),
                                 .frequency_penalty = at(7) - 0.5f,
                                 .seed = seed,
                                 .sample = seed % 2,
                                 .bias = bias};
        sample_row const r{.logits = logits.data(), .options = &o, .position = seed, .seen = seen, .allowed = allowed};
        auto d = ref::sampling_distribution(r, n);
        auto const wanted = ref::drawn_token(d, o, seed);
        ++all;
        if (d.margin < 2e-6) continue;
        ++compared;
        CAPTURE(n);
        CAPTURE(seed);
        CHECK(drawn(r, n).token == wanted);
      }
    CHECK(compared > all * 95 / 100);
  }

  TEST_CASE("tokens come as often as they should") {
    index_t const n = 300, draws = 200000;
    for (sampling_options const& o : {sampling_options{.temperature = 0.7f, .seed = 5},
                                      {.top_k = 20, .seed = 6},
                                      {.temperature = 1.3f, .top_p = 0.9f, .seed = 7},
                                      {.min_p = 0.05f, .seed = 8}}) {
      auto const logits = logits_of(n, 3, 2.5, true);
      sample_row const r{.logits = logits.data(), .options = &o};
      auto const d = ref::sampling_distribution(r, n);
      std::vector<double> counts(std::size_t(n), 0.0);
      std::vector<sample_row> rows(std::size_t(draws), r);
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i].position = i;
      ops::sample(ctx, ops::sample_args{.rows = rows, .vocabulary = n});
      for (auto const& row : rows) ++counts[std::size_t(row.token)];
      double chi_square = 0, degrees = -1, rare_expected = 0, rare_counted = 0;
      for (std::size_t t = 0; t < counts.size(); ++t) {
        double const expected = d.probability[t] * double(draws);
        if (expected == 0) CHECK(counts[t] == 0);
        else if (expected < 10) rare_expected += expected, rare_counted += counts[t];
        else chi_square += (counts[t] - expected) * (counts[t] - expected) / expected, ++degrees;
      }
      if (rare_expected >= 10)
        chi_square += (rare_counted - rare_expected) * (rare_counted - rare_expected) / rare_expected, ++degrees;
      // Wilson and Hilferty: the cube root is nearly normal. Four standard deviations.
      double const z = (std::cbrt(chi_square / degrees) - (1 - 2 / (9 * degrees))) / std::sqrt(2 / (9 * degrees));
      CAPTURE(z);
      CHECK(std::abs(z) < 4);
    }
  }

  TEST_CASE("the log-probability is the loss of training, negated, to the bit") {
    for (index_t const v : {1, 17, 250, 7301})
      for (index_t const leaf : {index_t(0), index_t(48)}) {
        index_t const t = 5, c = 24;
        auto const hidden = ref::random_values(t * c, 1), weight = ref::random_values(v * c, 2);
        std::vector<float> losses(std::size_t(t), 0.0f), logits(std::size_t(t * v));
        auto const in = [](auto const& x, index_t rows, index_t cols) {
          return as_const(matrix(const_cast<float*>(x.data()), rows, cols));
        };
        ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = matrix(logits.data(), t, v),
                                                           .a = in(hidden, t, c),
                                                           .b = transposed(in(weight, v, c))});
        std::vector<sample_row> rows;
        std::vector<std::int32_t> targets;
        std::array<token_value, 4> likeliest[5];
        // A bias that the log-probabilities must not see.
        token_value const bias[] = {{std::int32_t(v / 2), 3.0f}};
        sampling_options const o{.bias = bias};
        for (std::size_t i = 0; i < std::size_t(t); ++i)
          rows.push_back({.logits = logits.data() + index_t(i) * v,
                          .options = &o,
                          .position = i,
                          .wants_log_probability = true,
                          .likeliest = std::span(likeliest[i]).first(std::size_t(std::min<index_t>(v, 4)))});
        ops::sample(ctx, ops::sample_args{.rows = rows, .vocabulary = v, .leaf_vocabulary = leaf});
        for (auto const& r : rows) targets.push_back(r.token);
        ops::linear_cross_entropy(ctx, ops::linear_cross_entropy_args<float>{.hidden = in(hidden, t, c),
                                                                             .weight = in(weight, v, c),
                                                                             .targets = targets,
                                                                             .losses = losses.data(),
                                                                             .leaf_vocabulary = leaf});
        for (std::size_t i = 0; i < rows.size(); ++i) {
          CHECK(rows[i].log_probability == -losses[i]);
          std::vector<std::int32_t> order(std::size_t(v), 0);
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(),
                           [&](auto a, auto b) { return rows[i].logits[a] > rows[i].logits[b]; });
          for (std::size_t k = 0; k < rows[i].likeliest.size(); ++k) {
            CHECK(rows[i].likeliest[k].token == order[k]);
            if (order[k] == rows[i].token) CHECK(rows[i].likeliest[k].value == rows[i].log_probability);
            if (k > 0) CHECK(rows[i].likeliest[k].value <= rows[i].likeliest[k - 1].value);
          }
        }
      }
  }

  TEST_CASE("a row draws the same alone and among others, on any number of threads") {
    index_t const n = 3000, count = 40;
    auto const logits = ref::random_values(n * count, 4, 6.0);
    std::vector<sampling_options> options;
    for (index_t i = 0; i < count; ++i)
      options.push_back({.temperature = float(i % 4) * 0.4f, .top_p = i % 3 ? 0.8f : 1.0f, .seed = 9});
    std::vector<sample_row> rows;
    for (index_t i = 0; i < count; ++i)
      rows.push_back({.logits = logits.data() + i * n,
                      .options = &options[std::size_t(i)],
                      .position = 7,
                      .wants_log_probability = true});
    ops::sample(ctx, ops::sample_args{.rows = rows, .vocabulary = n});
    for (auto const& r : rows) {
      auto const alone = drawn(r, n);
      CHECK(alone.token == r.token);
      CHECK(alone.log_probability == r.log_probability);
    }
    // Another seed, position or sample: other tokens.
    std::vector<std::vector<std::int32_t>> texts(4);
    for (std::uint64_t i = 0; i < 50; ++i) {
      std::vector<float> const flat(1000);
      texts[0].push_back(drawn(flat, {.seed = 1}, i));
      texts[1].push_back(drawn(flat, {.seed = 2}, i));
      texts[2].push_back(drawn(flat, {.seed = 1, .sample = 1}, i));
      texts[3].push_back(drawn(flat, {.seed = 1}, i + 1));
    }
    for (std::size_t i = 1; i < 4; ++i) CHECK(texts[i] != texts[0]);
    CHECK(std::equal(texts[3].begin(), texts[3].end() - 1, texts[0].begin() + 1));
  }

  TEST_CASE("ties, and what is no number") {
    float const infinity = INFINITY, nan = NAN;
    std::vector<float> x(700, 1.0f);
    CHECK(drawn(x, {.temperature = 0}, 0) == 0);
    x[300] = x[600] = 2;
    CHECK(drawn(x, {.temperature = 0}, 0) == 300);
    for (std::uint64_t i = 0; i < 50; ++i) {
      CHECK(drawn(x, {.top_k = 1}, i) == 300);
      CHECK(drawn(x, {.top_p = 0}, i) == 300);
      CHECK(drawn(x, {.temperature = 1e-40f}, i) % 300 == 0);
      auto const third = drawn(x, {.temperature = 100, .top_k = 3}, i);
      CHECK((third == 0 || third == 300 || third == 600));
      auto const likely = drawn(x, {.temperature = 1e-3f, .min_p = 1}, i);
      CHECK((likely == 300 || likely == 600));
    }
    x[0] = x[699] = nan, x[1] = -infinity;
    for (sampling_options const& o :
         {sampling_options{}, {.temperature = 0}, {.top_k = 650}, {.top_p = 0.99f}, {.min_p = 0.1f}})
      for (std::uint64_t i = 0; i < 300; ++i) {
        auto const token = drawn(x, o, i);
        CHECK((token > 1 && token < 699));
      }
    x[20] = infinity;
    CHECK(drawn(x, {}, 0) == 20);
    std::array<token_value, 3> list;
    for (float const only : {nan, -infinity}) {
      std::vector<float> const nothing(700, only);
      sampling_options const o{.top_k = 5, .top_p = 0.5f};
      CHECK(drawn({.logits = nothing.data(), .options = &o, .likeliest = list}, 700).token == -1);
    }
    std::vector<std::uint32_t> const none(22);
    sampling_options const greedy{.temperature = 0};
    CHECK(drawn({.logits = x.data(), .options = &greedy, .allowed = none}, 700).token == -1);
  }

  TEST_CASE("no memory is taken after the first call") {
    std::vector<float> const x = logits_of(5000, 1, 3, true);
    drawn(x, {.top_p = 0.9f}, 0);
    auto const before = ctx.scratch().system_allocations();
    for (std::uint64_t i = 0; i < 20; ++i) drawn(x, {.top_p = 0.9f}, i);
    CHECK(ctx.scratch().system_allocations() == before);
  }

  TEST_CASE("impossible options") {
    CHECK(message_of({}).empty());
    CHECK(message_of({.temperature = -1}).find("temperature is -1") != std::string::npos);
    CHECK(message_of({.temperature = NAN}).find("temperature is nan") != std::string::npos);
    CHECK(message_of({.top_k = -3}).find("top_k is -3") != std::string::npos);
    CHECK(message_of({.top_p = 1.5f}).find("top_p is 1.5") != std::string::npos);
    CHECK(message_of({.min_p = -0.5f}).find("min_p is -0.5") != std::string::npos);
    CHECK(message_of({.repetition_penalty = 0}).find("repetition_penalty is 0") != std::string::npos);
    CHECK(message_of({.presence_penalty = INFINITY}).find("presence_penalty is inf") != std::string::npos);
    CHECK(message_of({.frequency_penalty = NAN}).find("frequency_penalty is nan") != std::string::npos);
    token_value const outside[] = {{10, 1.0f}}, endless[] = {{1, INFINITY}};
    CHECK(message_of({.bias = outside}).find("bias is 10") != std::string::npos);
    CHECK(message_of({.bias = endless}).find("bias is inf") != std::string::npos);
    seen_token const foreign[] = {{-1, 1}};
    CHECK(message_of({}, {.seen = foreign}).find("seen token") != std::string::npos);
    CHECK(message_of({}, {.allowed = std::span<std::uint32_t const>(reinterpret_cast<std::uint32_t const*>(1), 0)})
              .empty());
    std::array<token_value, 11> many;
    CHECK(message_of({}, {.likeliest = many}).find("more likeliest") != std::string::npos);
    std::vector<float> const wide(40);
    std::uint32_t const short_mask[] = {1};
    sampling_options const o;
    CHECK_THROWS_AS(drawn({.logits = wide.data(), .options = &o, .allowed = short_mask}, 40), argument_error);
    CHECK_THROWS_AS(drawn({}, 40), argument_error);
    CHECK_THROWS_AS(drawn({.logits = wide.data(), .options = &o}, 0), argument_error);
  }
}
