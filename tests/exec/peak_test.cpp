// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/exec/host/peak.hpp>

TEST_CASE("measured peaks are numbers that a machine can have") {
  for (int threads : {1, 3}) {
    tenon::exec::thread_pool pool(threads);
    double const flops = tenon::exec::measure_fma_peak(pool);
    // Wide bounds: unoptimized scalar code under a sanitizer, and 64 lanes x 2 pipes x 6 GHz on each of the threads.
    CHECK(flops > 1e6);
    CHECK(flops < 3 * 1536e9);
    double const bytes = tenon::exec::measure_read_bandwidth(pool, std::size_t(4) << 20);
    CHECK(bytes > 1e7);
    CHECK(bytes < 3 * 2e12);
  }
}

TEST_CASE("the loops compute what they say, so nothing can be folded away") {
  float start[16 * tenon::exec::detail::fma_chains] = {};
  start[0] = 1024;
  start[17] = 512;
  // Three rounds of x/2 + 1 on all chains: 0 becomes 1.75, 1024 becomes 129.75, 512 becomes 65.75.
  float const zeros = 1.75f * float(16 * tenon::exec::detail::fma_chains - 2);
  CHECK(tenon::exec::detail::fma_loop(3, 0.5f, 1.0f, start) == zeros + 129.75f + 65.75f);
  std::vector<float> numbers(512, 1.0f);
  numbers[511] = 100;
  CHECK(tenon::exec::detail::read_loop(numbers.data(), 2048) == 611.0f);
}
