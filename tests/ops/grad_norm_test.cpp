// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/ops/host/grad_norm.hpp>

#include "ref/values.hpp"

using namespace tenon;

namespace {

double norm_of(std::vector<ops::norm_part> const& parts, int threads = 2) {
  exec::host_context ctx(threads);
  double result = std::numeric_limits<double>::quiet_NaN();
  ops::grad_norm(ctx, ops::grad_norm_args{parts, &result});
  return result;
}
/// The exact sum's digits: equal only when not a single bit is lost.
std::array<std::int64_t, exact_sum::words_count> digits_of(std::vector<ops::norm_part> const& parts, int threads) {
  exec::host_context ctx(threads);
  exact_sum sum;
  ops::grad_norm(ctx, ops::grad_norm_args{.parts = parts, .squares = &sum});
  return sum.words();
}
/// The contract read literally, one group at a time.
exact_sum by_definition(std::vector<ops::norm_part> const& parts) {
  exact_sum sum;
  for (auto const& p : parts)
    for (index_t r = 0; r < p.rows; ++r)
      for (index_t j = 0; j < p.cols; j += lanes) {
        double t[lanes] = {};
        for (index_t i = 0; i < lanes && j + i < p.cols; ++i) t[i] = std::pow(double(p.p[r * p.cols + j + i]), 2);
        for (int half = lanes / 2; half; half /= 2)
          for (int i = 0; i < half; ++i) t[i] += t[i + half];
        sum.add(t[0]);
      }
  return sum;
}
/// Numbers over many powers of two, zeros among them.
std::vector<float> wide_values(index_t n, unsigned seed, int exponents) {
  std::mt19937 engine(seed);
  auto v = ref::random_values(n, seed + 1);
  for (auto& x : v)
    x = engine() % 8 == 0 ? 0.0f : std::ldexp(x, int(engine() % unsigned(2 * exponents + 1)) - exponents);
  return v;
}

}  // namespace

TEST_CASE("the norm is the exact sum of the groups' squares") {
  for (int const exponents : {0, 3, 30, 60})
    for (auto const& shape :
         {std::array<index_t, 2>{1, 1}, {1, 15}, {3, 16}, {7, 33}, {100, 160}, {1, 100001}, {2003, 5}}) {
      index_t const rows = shape[0], cols = shape[1];
      CAPTURE(exponents);
      CAPTURE(cols);
      auto const v = wide_values(rows * cols, unsigned(rows + exponents), exponents);
      std::vector<ops::norm_part> const parts{{v.data(), rows, cols}};
      exact_sum expected = by_definition(parts);
      for (int const threads : {1, 2, 5}) {
        CHECK(norm_of(parts, threads) == std::sqrt(expected.value()));
        CHECK(digits_of(parts, threads) == expected.words());
      }
      double plain = 0;
      for (float const x : v) plain += double(x) * double(x);
      CHECK(std::sqrt(expected.value()) == doctest::Approx(std::sqrt(plain)).epsilon(1e-12));
    }
}

TEST_CASE("parts in any order and cut anywhere between rows give one value") {
  auto const v = wide_values(64 * 37, 5, 20);
  double const whole = norm_of({{v.data(), 64, 37}});
  CHECK(norm_of({{v.data() + 40 * 37, 24, 37}, {v.data(), 40, 37}}) == whole);
  exec::host_context ctx(2);
  exact_sum of_ranks;
  for (index_t rank = 3; rank >= 0; --rank) {
    ops::norm_part const mine{v.data() + rank * 16 * 37, 16, 37};
    ops::grad_norm(ctx, ops::grad_norm_args{.parts = {&mine, 1}, .squares = &of_ranks});
  }
  CHECK(std::sqrt(of_ranks.value()) == whole);
}

TEST_CASE("nothing, zeros, the smallest and largest floats, infinities and NaN") {
  CHECK(norm_of({}) == 0);
  std::vector<float> v(5000, 0.0f);
  std::vector<ops::norm_part> const parts{{v.data(), 5, 1000}};
  CHECK(norm_of(parts) == 0);
  v[4321] = std::numeric_limits<float>::denorm_min();
  CHECK(norm_of(parts) == double(v[4321]));
  v[17] = std::numeric_limits<float>::max();
  CHECK(norm_of(parts) == std::sqrt(by_definition(parts).value()));
  v[100] = -std::numeric_limits<float>::infinity();
  CHECK(norm_of(parts) == std::numeric_limits<double>::infinity());
  v[200] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(norm_of(parts)));
  v[100] = 0;
  CHECK(std::isnan(norm_of(parts)));
  std::fill(v.begin(), v.end(), std::numeric_limits<float>::quiet_NaN());
  CHECK(std::isnan(norm_of(parts)));
}
