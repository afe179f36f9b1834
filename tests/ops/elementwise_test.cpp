// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/ops/host/elementwise.hpp>

#include "ref/values.hpp"

using namespace tenon;

TEST_CASE_TEMPLATE("add, scale and convert, one rounding each", T, float, bf16, fp16) {
  exec::host_context ctx(2);
  for (index_t const n : {1, 15, 16, 97, 70000}) {
    CAPTURE(n);
    auto const x = ref::random_values<float>(n, 1);
    auto const y = ref::random_values<T>(n, 2);
    auto sum = y, scaled = y;
    ops::add(ctx, ops::add_args<T, float>{sum.data(), x.data(), n});
    ops::scale(ctx, ops::scale_args<T>{scaled.data(), n, 0.3f});
    auto back = ref::poison<float>(n);
    auto rounded = ref::poison<T>(n);
    ops::convert(ctx, ops::convert_args<T, float>{rounded.data(), x.data(), n});
    ops::convert(ctx, ops::convert_args<float, T>{back.data(), y.data(), n});
    bool same = true;
    for (std::size_t i = 0; i < std::size_t(n); ++i) {
      same = same && sum[i] == T(float(y[i]) + x[i]) && scaled[i] == T(float(y[i]) * 0.3f);
      same = same && rounded[i] == T(x[i]) && back[i] == float(y[i]);
    }
    CHECK(same);
  }
}

TEST_CASE("convert to and from eight bits") {
  exec::host_context ctx(2);
  std::vector<fp8_e4m3> small(37);
  auto const x = ref::random_values(37, 1, 400);
  auto back = ref::poison(37);
  ops::convert(ctx, ops::convert_args<fp8_e4m3, float>{small.data(), x.data(), 37});
  ops::convert(ctx, ops::convert_args<float, fp8_e4m3>{back.data(), small.data(), 37});
  for (std::size_t i = 0; i < 37; ++i) CHECK(back[i] == float(fp8_e4m3(x[i])));
}

TEST_CASE_TEMPLATE("column sums are chains in leaves, then the tree", T, float, bf16, fp16) {
  for (auto const& [rows, cols, leaf] :
       {std::array<index_t, 3>{1, 1, 16}, {5, 3, 0}, {37, 17, 16}, {100, 131, 16}, {64, 1030, 16}, {50, 33, 7}}) {
    auto const x = ref::random_values<T>(rows * cols, 1);
    std::vector<float> expected;
    auto const add = [](float& a, float b) { a += b; };
    for (index_t j = 0; j < cols; ++j) {
      tree<float> sum;
      for (index_t begin = 0; begin < rows; begin += leaf ? leaf : rows) {
        float chain = 0;
        for (index_t r = begin; r < std::min(rows, begin + (leaf ? leaf : rows)); ++r)
          chain += float(x[std::size_t(r * cols + j)]);
        sum.push(chain, add);
      }
      expected.push_back(sum.finish(add));
    }
    for (int threads : {1, 2, 7}) {
      exec::host_context ctx(threads);
      auto out = ref::poison(cols);
      ops::column_sum_args<T> a{.x = matrix(x.data(), rows, cols), .out = out.data(), .leaf = leaf};
      ops::column_sum(ctx, a);
      CHECK(ref::same_bits(out, expected));
      a.accumulate = true;
      ops::column_sum(ctx, a);
      for (std::size_t j = 0; j < out.size(); ++j) CHECK(out[j] == expected[j] + expected[j]);
    }
  }
  exec::host_context ctx(1);
  float nothing[3] = {1, 2, 3};
  ops::column_sum(
      ctx, ops::column_sum_args<T>{.x = matrix(static_cast<T const*>(nullptr), 0, 3), .out = nothing, .leaf = 16});
  CHECK(nothing[1] == 0.0f);
}
