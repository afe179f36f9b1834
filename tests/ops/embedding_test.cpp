// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstring>
#include <map>
#include <optional>

#include <tenon/ops/host/embedding.hpp>

#include "ref/values.hpp"

using namespace tenon;

namespace {

std::vector<std::int32_t> random_tokens(index_t n, index_t vocabulary, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<std::int32_t> t(std::size_t(n), 0);
  for (auto& x : t) x = std::int32_t(engine() % unsigned(vocabulary));
  return t;
}
/// The contract read literally: the full binary tree over leaves [begin, begin + size), absent ones skipped.
std::optional<float> node(std::map<index_t, float> const& leaves, index_t begin, index_t size) {
  if (size == 1) return leaves.contains(begin) ? std::optional(leaves.at(begin)) : std::nullopt;
  auto const left = node(leaves, begin, size / 2), right = node(leaves, begin + size / 2, size / 2);
  if (left && right) return *left + *right;
  return left ? left : right;
}

}  // namespace

TEST_CASE_TEMPLATE("embedding looks rows up and adds positions", T, float, bf16, fp16) {
  exec::host_context ctx(2);
  for (auto const& shape : {std::array<index_t, 3>{1, 1, 1}, {7, 5, 17}, {40, 300, 33}}) {
    index_t const t = shape[0], v = shape[1], c = shape[2];
    auto const table = ref::random_values<T>(v * c, 1), places = ref::random_values<T>((t + 3) * c, 2);
    auto const tokens = random_tokens(t, v, 3);
    std::vector<index_t> positions;
    for (index_t i = 0; i < t; ++i) positions.push_back(i + 3);
    auto out = ref::poison<T>(t * c);
    ops::embedding_forward_args<T> a{.tokens = tokens,
                                     .table = matrix(table.data(), v, c),
                                     .out = matrix(out.data(), t, c)};
    ops::embedding_forward(ctx, a);
    bool same = true;
    auto const element = [&](std::vector<T> const& m, index_t r, index_t j) {
      return float(m[std::size_t(r * c + j)]);
    };
    for (index_t i = 0; i < t; ++i)
      for (index_t j = 0; j < c; ++j) same = same && element(out, i, j) == element(table, tokens[std::size_t(i)], j);
    a.position_table = matrix(places.data(), t + 3, c), a.positions = positions, a.scale = 1.7f;
    ops::embedding_forward(ctx, a);
    for (index_t i = 0; i < t; ++i)
      for (index_t j = 0; j < c; ++j)
        same =
            same && element(out, i, j) ==
                        float(T(std::fma(element(table, tokens[std::size_t(i)], j), 1.7f, element(places, i + 3, j))));
    CHECK(same);
  }
}

TEST_CASE_TEMPLATE("a table in parts: one part has a row, -0 stands for it in the others", T, float, bf16) {
  exec::host_context ctx(2);
  index_t const t = 100, v = 23, c = 21;
  auto table = ref::random_values<T>(v * c, 1), d_out = ref::random_values<T>(t * c, 2);
  for (std::size_t i = 0; i < table.size(); i += 7) table[i] = T(-0.0f);
  auto const tokens = random_tokens(t, v, 3);
  auto whole = ref::poison<float>(t * c), gradient = ref::poison<float>(v * c), sum = std::vector<float>(whole.size());
  auto const view = [&](auto& m, index_t rows) { return matrix(m.data(), rows, c); };
  ops::embedding_forward(
      ctx, ops::embedding_forward_args<T, float>{.tokens = tokens, .table = view(table, v), .out = view(whole, t)});
  ops::embedding_backward(ctx, ops::embedding_backward_args<T>{.tokens = tokens,
                                                               .d_out = view(d_out, t),
                                                               .d_table = view(gradient, v),
                                                               .leaf = 16,
                                                               .accumulate = false});
  for (auto& x : sum) x = -0.0f;
  std::vector<float> gradients;
  for (index_t first : {0, 16, 23}) {
    index_t const rows = std::min<index_t>(16, v - first);
    auto part = ref::poison<float>(t * c), d_part = ref::poison<float>(rows * c);
    ops::embedding_forward(ctx, ops::embedding_forward_args<T, float>{.tokens = tokens,
                                                                      .table = rows_of(view(table, v), first, rows),
                                                                      .out = view(part, t),
                                                                      .first_row = first,
                                                                      .vocabulary = v});
    ops::embedding_backward(ctx, ops::embedding_backward_args<T>{.tokens = tokens,
                                                                 .d_out = view(d_out, t),
                                                                 .d_table = view(d_part, rows),
                                                                 .leaf = 16,
                                                                 .accumulate = false,
                                                                 .first_row = first,
                                                                 .vocabulary = v});
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
    gradients.insert(gradients.end(), d_part.begin(), d_part.end());
  }
  CHECK(std::memcmp(sum.data(), whole.data(), sum.size() * sizeof(float)) == 0);
  CHECK(gradients == gradient);
  std::vector<std::int32_t> beyond = tokens;
  beyond[9] = std::int32_t(v);
  CHECK_THROWS_AS(ops::embedding_forward(ctx, ops::embedding_forward_args<T, float>{.tokens = beyond,
                                                                                    .table = view(table, 16),
                                                                                    .out = view(whole, t),
                                                                                    .vocabulary = v}),
                  argument_error);
}

TEST_CASE_TEMPLATE("the gradient of a row is the tree over the leaves that have it", T, float, bf16) {
  for (auto const& [t, v, c, leaf] : {std::array<index_t, 4>{1, 1, 1, 16},
                                      {200, 5, 19, 16},
                                      {333, 70, 33, 16},
                                      {100, 3, 5, 3},
                                      {64, 4000, 8, 16},
                                      {50, 7, 140, 0}}) {
    auto const tokens = random_tokens(t, v, unsigned(t));
    auto const d_out = ref::random_values<T>(t * c, 2);
    index_t const length = leaf ? leaf : t;
    std::vector<float> expected(std::size_t(v * c), 0.0f);
    std::vector<double> plain(std::size_t(v * c), 0.0);
    for (index_t r = 0; r < v; ++r)
      for (index_t j = 0; j < c; ++j) {
        std::map<index_t, float> leaves;
        for (index_t i = 0; i < t; ++i)
          if (tokens[std::size_t(i)] == r) {
            leaves[i / length] += float(d_out[std::size_t(i * c + j)]);
            plain[std::size_t(r * c + j)] += double(float(d_out[std::size_t(i * c + j)]));
          }
        expected[std::size_t(r * c + j)] = node(leaves, 0, 128).value_or(0.0f);
      }
    CHECK(ref::error(expected, plain) < 1e-6);
    for (int threads : {1, 2, 5}) {
      exec::host_context ctx(threads);
      auto got = ref::poison(v * c);
      ops::embedding_backward_args<T> a{.tokens = tokens,
                                        .d_out = matrix(d_out.data(), t, c),
                                        .d_table = matrix(got.data(), v, c),
                                        .leaf = leaf,
                                        .accumulate = false};
      ops::embedding_backward(ctx, a);
      CHECK(ref::same_bits(got, expected));
      auto const old = ref::random_values(v * c, 9);
      got = old;
      a.accumulate = true;
      ops::embedding_backward(ctx, a);
      bool same = true;
      for (std::size_t i = 0; i < got.size(); ++i) same = same && got[i] == old[i] + expected[i];
      CHECK(same);
    }
  }
}

TEST_CASE("tokens outside of the table are an error, not a read of other memory") {
  exec::host_context ctx(2);
  std::vector<float> table(12), out(8);
  for (std::int32_t const bad : {-1, 3}) {
    std::vector<std::int32_t> const tokens{0, bad};
    CHECK_THROWS_AS(
        ops::embedding_forward(ctx, ops::embedding_forward_args<float>{.tokens = tokens,
                                                                       .table = matrix<float const>(table.data(), 3, 4),
                                                                       .out = matrix(out.data(), 2, 4)}),
        argument_error);
    CHECK_THROWS_AS(
        ops::embedding_backward(ctx, ops::embedding_backward_args<float>{.tokens = tokens,
                                                                         .d_out = matrix<float const>(out.data(), 2, 4),
                                                                         .d_table = matrix(table.data(), 3, 4)}),
        argument_error);
  }
}
