// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include <tenon/ops/host/rope.hpp>

using namespace tenon;

namespace {
double value(index_t i) { return std::sin(0.37 * double(i)) + 0.1; }

void check(int heads, int width, int rotary, index_t row_stride, ops::rope_pairing pairing, float base,
           std::vector<float> const& factors = {}) {
  exec::host_context ctx(2);
  std::vector<index_t> const positions{0, 1, 7, 4095, 100000};
  index_t const tokens = index_t(positions.size());
  std::vector<float> x(std::size_t(tokens * row_stride));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(value(index_t(i)));
  auto const before = x;
  ops::rope_args<float> args{.x = matrix(x.data(), tokens, index_t(heads * width), row_stride),
                             .heads = heads,
                             .width = width,
                             .rotary_width = rotary,
                             .positions = positions,
                             .base = base,
                             .factors = factors,
                             .pairing = pairing};
  ops::rope(ctx, args);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t c = 0; c < row_stride; ++c) {
      std::size_t const at = std::size_t(t * row_stride + c);
      int const within = int(c % width);
      if (c >= heads * width || within >= rotary) {
        CHECK(x[at] == before[at]);
        continue;
      }
      bool const half = pairing == ops::rope_pairing::half;
      int const pair = half ? within % (rotary / 2) : within / 2;
      bool const first = half ? within < rotary / 2 : within % 2 == 0;
      std::size_t const other =
          first ? at + std::size_t(half ? rotary / 2 : 1) : at - std::size_t(half ? rotary / 2 : 1);
      double const angle = double(positions[std::size_t(t)]) * std::pow(double(base), -2.0 * pair / rotary) /
                           (factors.empty() ? 1.0 : double(factors[std::size_t(pair)]));
      double const a = double(before[at]), b = double(before[other]);
      double const expected =
          first ? a * std::cos(angle) - b * std::sin(angle) : a * std::cos(angle) + b * std::sin(angle);
      CHECK(double(x[at]) == doctest::Approx(expected).epsilon(1e-6).scale(1));
    }
  args.inverse = true;
  ops::rope(ctx, args);
  for (std::size_t i = 0; i < x.size(); ++i)
    CHECK(double(x[i]) == doctest::Approx(double(before[i])).epsilon(1e-6).scale(1));
}
}  // namespace

TEST_CASE("rope: against float64, and turning back") {
  for (auto pairing : {ops::rope_pairing::half, ops::rope_pairing::interleaved}) {
    check(1, 2, 2, 2, pairing, 10000);
    check(3, 10, 6, 40, pairing, 10000);
    check(2, 64, 64, 130, pairing, 1e6f);
    check(2, 70, 70, 140, pairing, 500);
    check(3, 10, 6, 40, pairing, 10000, {1, 2.5f, 8});
  }
}

TEST_CASE("rope: the same bits for any number of threads; 16-bit types; refusals") {
  std::vector<index_t> positions(100);
  for (index_t i = 0; i < 100; ++i) positions[std::size_t(i)] = i * 3;
  std::vector<float> expected;
  for (int threads : {1, 2, 3}) {
    exec::host_context ctx(threads);
    std::vector<float> x(100 * 32);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(value(index_t(i)));
    ops::rope(ctx, ops::rope_args<float>{matrix(x.data(), 100, 32), 2, 16, 16, positions});
    if (expected.empty()) expected = x;
    CHECK(std::memcmp(x.data(), expected.data(), x.size() * sizeof(float)) == 0);
  }
  exec::host_context ctx(1);
  std::vector<bf16> h(100 * 32);
  for (std::size_t i = 0; i < h.size(); ++i) h[i] = bf16(float(value(index_t(i))));
  ops::rope(ctx, ops::rope_args<bf16>{matrix(h.data(), 100, 32), 2, 16, 16, positions});
  CHECK(float(h[3199]) == doctest::Approx(expected[3199]).epsilon(0.02).scale(1));
  std::vector<float> x(100 * 32);
  CHECK_THROWS_AS(ops::rope(ctx, (ops::rope_args<float>{matrix(x.data(), 100, 32), 2, 16, 7, positions})),
                  argument_error);
  CHECK_THROWS_AS(ops::rope(ctx, (ops::rope_args<float>{matrix(x.data(), 99, 32), 2, 16, 16, positions})),
                  argument_error);
  std::vector<float> const factors(7, 1.0f);
  CHECK_THROWS_AS(
      ops::rope(ctx, (ops::rope_args<float>{matrix(x.data(), 100, 32), 2, 16, 16, positions, 10000, factors})),
      argument_error);
}
