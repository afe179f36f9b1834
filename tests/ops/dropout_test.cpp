// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include <tenon/ops/host/dropout.hpp>

using namespace tenon;

namespace {
std::vector<float> run(int threads, index_t samples, index_t length, index_t cols, std::uint64_t first, float rate,
                       std::uint64_t step = 1, index_t first_position = 0) {
  exec::host_context ctx(threads);
  std::vector<float> x(std::size_t(samples * length * cols), 2.0f), y(x.size(), NAN);
  ops::dropout(ctx, ops::dropout_args<float>{.x = matrix<float const>(x.data(), samples * length, cols),
                                             .out = matrix(y.data(), samples * length, cols),
                                             .rate = rate,
                                             .stream = random_stream(5, "test", step),
                                             .first_sample = first,
                                             .sequence_length = length,
                                             .first_position = first_position});
  return y;
}
}  // namespace

TEST_CASE("dropout: values are dropped or scaled, in the right share, each by its own number") {
  index_t const samples = 4, length = 33, cols = 101;
  auto const y = run(2, samples, length, cols, 10, 0.3f);
  random_stream const stream(5, "test", 1);
  std::size_t dropped = 0;
  for (index_t t = 0; t < samples * length; ++t)
    for (index_t c = 0; c < cols; ++c) {
      float const u = stream.uniform(std::uint64_t(10 + t / length), std::uint64_t((t % length) * cols + c));
      float const got = y[std::size_t(t * cols + c)];
      CHECK(got == (u < 0.3f ? 0.0f : 2.0f * (1.0f / 0.7f)));
      dropped += got == 0;
    }
  CHECK(double(dropped) / double(y.size()) == doctest::Approx(0.3).epsilon(0.05));
}

TEST_CASE("dropout: the mask depends on the sample, not on how a batch is cut or on threads") {
  auto const whole = run(1, 4, 20, 19, 0, 0.5f);
  for (int threads : {1, 2, 3}) {
    auto const first = run(threads, 2, 20, 19, 0, 0.5f), second = run(threads, 2, 20, 19, 2, 0.5f);
    CHECK(std::memcmp(whole.data(), first.data(), first.size() * sizeof(float)) == 0);
    CHECK(std::memcmp(whole.data() + first.size(), second.data(), second.size() * sizeof(float)) == 0);
  }
  auto const halves = {run(1, 4, 10, 19, 0, 0.5f, 1, 0), run(2, 4, 10, 19, 0, 0.5f, 1, 10)};  // of each sample
  for (std::size_t s = 0, half = 10 * 19; s < 4; ++s)
    for (std::size_t h = 0; h < 2; ++h)
      CHECK(std::memcmp(whole.data() + (2 * s + h) * half, halves.begin()[h].data() + s * half, half * sizeof(float)) ==
            0);
  CHECK(whole != run(1, 4, 20, 19, 0, 0.5f, 2));
  auto const nothing = run(2, 1, 5, 7, 0, 0.0f);
  for (float v : nothing) CHECK(v == 2.0f);
  CHECK_THROWS_AS(run(1, 1, 5, 7, 0, 1.0f), argument_error);
}
