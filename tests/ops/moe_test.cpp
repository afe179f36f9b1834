// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/ops/host/moe.hpp>

#include "ref/moe.hpp"
#include "ref/values.hpp"

using namespace tenon;

namespace {

template <class T>
matrix_view<T const> read(std::vector<T> const& v, index_t rows, index_t cols) {
  return matrix<T const>(v.data(), rows, cols);
}

/// Logits of tokens in sequences, and where they go.
struct problem {
  std::vector<index_t> begins;
  index_t experts, slots;
  float capacity_factor = 0;
  int threads = 2;
  index_t tokens = begins.back();
  std::vector<float> logits = ref::random_values(tokens * experts, 1, 3.0);
  std::vector<float> probabilities = ref::poison(tokens * experts), weights = ref::poison(tokens * slots);
  std::vector<index_t> chosen = numbers(tokens * slots), places = chosen, row_tokens = chosen;
  std::vector<index_t> expert_begins = numbers(experts + 1), counts = numbers(index_t(begins.size() - 1) * experts);

  static std::vector<index_t> numbers(index_t n) { return std::vector<index_t>(std::size_t(n), -77); }
  ops::routing routes() {
    return {.probabilities = matrix(probabilities.data(), tokens, experts),
            .chosen = matrix(chosen.data(), tokens, slots),
            .weights = matrix(weights.data(), tokens, slots),
            .places = matrix(places.data(), tokens, slots),
            .tokens = row_tokens,
            .begins = expert_begins,
            .counts = matrix(counts.data(), index_t(begins.size()) - 1, experts)};
  }
  ops::routing run() {
    exec::host_context ctx(threads);
    auto const r = routes();
    ops::route(ctx, ops::route_args{read(logits, tokens, experts), begins, capacity_factor, r});
    return r;
  }
  ref::routes reference(index_t capacity) const {
    return ref::route(ref::as_double(logits), begins, experts, slots, capacity);
  }
  std::uint64_t hash() const {
    return ref::hash(probabilities, ref::hash(weights, ref::hash(places, ref::hash(chosen, ref::hash(expert_begins)))));
  }
};

/// Every slot as double references have it, rows sorted by expert and token, and nothing in between.
void check(problem& p, index_t capacity) {
  auto const r = p.run();
  auto const expected = p.reference(capacity);
  index_t row = 0;
  for (index_t e = 0; e < p.experts; ++e) {
    CHECK(r.begins[std::size_t(e)] == row);
    for (index_t t = 0; t < p.tokens; ++t)
      for (index_t j = 0; j < p.slots; ++j) {
        auto const tt = std::size_t(t), jj = std::size_t(j);
        if (expected.chosen[tt][jj] != e) continue;
        REQUIRE(r.chosen(t, j) == e);
        CHECK(r.places(t, j) == (expected.kept[tt][jj] ? row : -1));
        CHECK(std::abs(double(r.weights(t, j)) - expected.weight(t, j)) < 1e-6);
        CHECK(std::abs(double(r.probabilities(t, e)) - expected.probabilities[tt][std::size_t(e)]) < 1e-6);
        if (expected.kept[tt][jj]) CHECK(r.tokens[std::size_t(row++)] == t);
      }
  }
  CHECK(r.rows() == row);
  for (index_t s = 0; s < r.counts.extent(0); ++s)
    for (index_t e = 0; e < p.experts; ++e)
      CHECK(double(r.counts(s, e)) == expected.counts[std::size_t(s)][std::size_t(e)]);
}

}  // namespace

TEST_CASE("route: the most probable experts, rows by expert and token; the same for any threads") {
  problem few{{0, 7, 7, 20}, 4, 2}, many{{0, 50, 333}, 37, 5}, one{{0, 9}, 3, 1}, all{{0, 9}, 3, 3};
  for (problem* p : {&few, &many, &one, &all}) check(*p, p->tokens);
  auto const hash = many.hash();
  for (int threads : {1, 3}) {
    many.threads = threads;
    many.run();
    CHECK(many.hash() == hash);
  }
}

TEST_CASE("route: beyond the capacity of a sequence, tokens are dropped in token order") {
  problem p{{0, 16, 32}, 4, 2, 0.75f};
  check(p, 6);  // ceil(0.75 x 16 x 2 / 4)
  CHECK(std::count(p.places.begin(), p.places.end(), -1) > 0);
  // Alone, a sequence keeps and drops the same.
  problem alone{{0, 16}, 4, 2, 0.75f};
  std::copy_n(p.logits.begin() + 64, 64, alone.logits.begin());
  alone.run();
  for (std::size_t i = 0; i < 32; ++i) {
    CHECK(alone.weights[i] == p.weights[32 + i]);
    CHECK((alone.places[i] < 0) == (p.places[32 + i] < 0));
  }
}

TEST_CASE("route: of equal experts the lower number; NaN chooses different experts") {
  problem p{{0, 2}, 5, 3};
  p.logits = {1, 2, 2, 0, 2, NAN, 0, 0, 0, 0};
  p.run();
  CHECK(p.chosen == std::vector<index_t>{1, 2, 4, 0, 1, 2});
  CHECK(p.weights[0] == p.weights[2]);
}

TEST_CASE("route_backward: differences of weights and balance, with dropped slots") {
  for (float factor : {0.0f, 0.75f}) {
    problem p{{0, 16, 32}, 19, 3, factor};
    auto const r = p.run();
    index_t const capacity = factor ? 2 : 32;  // ceil(0.75 x 16 x 3 / 19)
    auto d_weights = ref::random_values(p.tokens * p.slots, 2);
    auto const expected = p.reference(capacity);
    index_t dropped = 0;
    for (index_t i = 0; i < p.tokens * p.slots; ++i)
      if (p.places[std::size_t(i)] < 0) d_weights[std::size_t(i)] = 0, ++dropped;
    CHECK((dropped > 0) == (factor > 0));
    std::vector<float> d_logits = ref::poison(p.tokens * p.experts);
    double balance[2] = {NAN, NAN};
    exec::host_context ctx(2);
    float const scale = 0.7f;
    ops::route_backward(ctx, ops::route_backward_args{.from = r,
                                                      .sequence_begins = p.begins,
                                                      .d_weights = read(d_weights, p.tokens, p.slots),
                                                      .balance_scale = scale,
                                                      .d_logits = matrix(d_logits.data(), p.tokens, p.experts),
                                                      .balance = balance});
    auto const loss = [&](std::vector<double> const& logits) {
      auto moved = ref::route(logits, p.begins, p.experts, p.slots, capacity);
      REQUIRE(moved.chosen == expected.chosen);
      double sum = double(scale) * (ref::balance(moved, 0, 0, 16) + ref::balance(moved, 1, 16, 32));
      for (index_t t = 0; t < p.tokens; ++t)
        for (index_t j = 0; j < p.slots; ++j)
          sum += double(d_weights[std::size_t(t * p.slots + j)]) * moved.weight(t, j);
      return sum;
    };
    CHECK(ref::error(d_logits, ref::central_differences(ref::as_double(p.logits), loss, 1e-6)) < 1e-6);
    CHECK(balance[0] == doctest::Approx(ref::balance(expected, 0, 0, 16)).epsilon(1e-6));
    CHECK(balance[1] == doctest::Approx(ref::balance(expected, 1, 16, 32)).epsilon(1e-6));
  }
}

TEST_CASE("route_backward: the balance of experts that are used alike is 1") {
  problem p{{0, 6}, 3, 1};
  for (std::size_t i = 0; i < p.logits.size(); ++i) p.logits[i] = i % 3 == i / 3 % 3 ? 2.0f : 0.0f;
  auto const r = p.run();
  std::vector<float> const d_weights(6, 0.0f);
  std::vector<float> d_logits(18);
  double balance = 0;
  exec::host_context ctx(1);
  ops::route_backward(
      ctx, ops::route_backward_args{r, p.begins, read(d_weights, 6, 1), 1, matrix(d_logits.data(), 6, 3), &balance});
  CHECK(balance == doctest::Approx(1.0));
}

TEST_CASE_TEMPLATE("dispatch and combine, forward and backward, against sums in double", T, float, bf16) {
  for (index_t const cols : {5, 48}) {
    problem p{{0, 16, 32}, 4, 2, 0.75f};
    auto const r = p.run();
    index_t const rows = r.rows();
    auto const x = ref::random_values<T>(p.tokens * cols, 3), y = ref::random_values<T>(rows * cols, 4),
               residual = ref::random_values<T>(p.tokens * cols, 5), d_out = ref::random_values<T>(p.tokens * cols, 6);
    auto dispatched = ref::poison<T>((rows + 1) * cols), out = ref::poison<T>(p.tokens * cols), sum = out;
    auto d_y = ref::poison<T>(rows * cols);
    auto d_weights = ref::poison(p.tokens * p.slots);
    exec::host_context ctx(2);
    std::vector<index_t> from(r.tokens.begin(), r.tokens.begin() + rows);
    from.push_back(-1);
    ops::dispatch(ctx, ops::dispatch_args<T>{read(x, p.tokens, cols), from, matrix(dispatched.data(), rows + 1, cols)});
    ops::combine(ctx, ops::combine_args<T>{.y = read(y, rows, cols),
                                           .places = r.places,
                                           .weights = r.weights,
                                           .residual = read(residual, p.tokens, cols),
                                           .out = matrix(out.data(), p.tokens, cols)});
    ops::combine(
        ctx,
        ops::combine_args<T>{.y = read(y, rows, cols), .places = r.places, .out = matrix(sum.data(), p.tokens, cols)});
    ops::combine_backward(ctx, ops::combine_backward_args<T>{.d_out = read(d_out, p.tokens, cols),
                                                             .y = read(y, rows, cols),
                                                             .places = r.places,
                                                             .weights = r.weights,
                                                             .d_y = matrix(d_y.data(), rows, cols),
                                                             .d_weights = matrix(d_weights.data(), p.tokens, p.slots)});
    auto const at = [&](auto const& v, index_t row, index_t c) {
      return double(float(v[std::size_t(row * cols + c)]));
    };
    std::vector<double> expected_dispatched, expected_out, expected_sum, expected_d_weights;
    std::vector<double> expected_d_y(std::size_t(rows * cols), NAN);
    for (index_t i = 0; i <= rows; ++i)
      for (index_t c = 0; c < cols; ++c)
        expected_dispatched.push_back(i < rows ? at(x, r.tokens[std::size_t(i)], c) : 0.0);
    for (index_t t = 0; t < p.tokens; ++t) {
      for (index_t c = 0; c < cols; ++c) {
        double weighted = at(residual, t, c), plain = 0;
        for (index_t j = 0; j < p.slots; ++j) {
          if (r.places(t, j) < 0) continue;
          weighted += double(r.weights(t, j)) * at(y, r.places(t, j), c);
          plain += at(y, r.places(t, j), c);
          expected_d_y[std::size_t(r.places(t, j) * cols + c)] = double(r.weights(t, j)) * at(d_out, t, c);
        }
        expected_out.push_back(weighted), expected_sum.push_back(plain);
      }
      for (index_t j = 0; j < p.slots; ++j) {
        double dot = 0;
        for (index_t c = 0; c < cols && r.places(t, j) >= 0; ++c) dot += at(d_out, t, c) * at(y, r.places(t, j), c);
        expected_d_weights.push_back(dot);
      }
    }
    CHECK(ref::error(dispatched, expected_dispatched) == 0);
    CHECK(ref::error(out, expected_out) < ref::tolerance<T>(1e-6));
    CHECK(ref::error(sum, expected_sum) < ref::tolerance<T>(1e-6));
    CHECK(ref::error(d_y, expected_d_y) < ref::tolerance<T>(1e-6));
    CHECK(ref::error(d_weights, expected_d_weights) < 1e-6);
  }
}

TEST_CASE("shapes that do not fit are refused") {
  problem p{{0, 8}, 4, 2};
  p.begins = {0, 9};
  CHECK_THROWS_WITH_AS(p.run(), doctest::Contains("Fix:"), argument_error);
  exec::host_context ctx(1);
  std::vector<float> x(8), out(8);
  std::vector<index_t> const beyond{0, 2};
  CHECK_THROWS_WITH_AS(ops::dispatch(ctx, ops::dispatch_args<float>{read(x, 2, 4), beyond, matrix(out.data(), 2, 4)}),
                       doctest::Contains("not in x"), argument_error);
}
