// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>

#include <tenon/profile/table.hpp>

using namespace tenon::profile;

TEST_CASE("summarize: time without what is within, longest first, adding up to the whole") {
  recorder r;
  // step [0, 100): gemm [10, 40), block [40, 90) with gemm [50, 70); then step [100, 120).
  r.add({"gemm", 10, 40, {300, 30}, 1});
  r.add({"gemm", 50, 70, {300, 30}, 2});
  r.add({"block", 40, 90, {}, 1});
  r.add({"step", 0, 100, {}, 0});
  r.add({"step", 100, 120, {}, 0});
  auto const rows = summarize(r);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].name == "gemm");
  CHECK(rows[0].calls == 2);
  CHECK(rows[0].seconds == doctest::Approx(50e-9));
  CHECK(rows[0].done.flops == 600);
  CHECK(rows[1].name == "step");
  CHECK(rows[1].seconds == doctest::Approx(40e-9));
  CHECK(rows[2].seconds == doctest::Approx(30e-9));
}

TEST_CASE("the roofline is the lower of arithmetic and bandwidth") {
  peaks const most{100e9, 10e9};  // the ridge is at 10 FLOP per byte
  summary_row const compute{"c", 1, 1.0, {80e9, 1e9}}, memory{"m", 1, 1.0, {5e9, 5e9}}, copy{"y", 1, 1.0, {0, 9e9}};
  CHECK(compute.share_of_roofline(most) == doctest::Approx(0.8));
  CHECK(memory.share_of_roofline(most) == doctest::Approx(0.5));
  CHECK(copy.share_of_roofline(most) == doctest::Approx(0.9));
  CHECK(copy.share_of_roofline({}) == 0);
  CHECK(summary_row{"z"}.share_of_roofline(most) == 0);
}

TEST_CASE("the table has a row per operation and a sum, in columns") {
  recorder r;
  r.add({"attention_backward", 0, 2'000'000, {100e6, 1e6}, 0});
  r.add({"gemm", 2'000'000, 8'000'000, {600e6, 6e6}, 0});
  r.limit = 2;
  r.add({"lost", 0, 1, {}, 0});
  std::string const text = table(r, {200e9, 20e9});
  CHECK(text ==
        "operation              calls    time, ms    share   GFLOP/s     GB/s  roofline\n"
        "------------------------------------------------------------------------------\n"
        "gemm                       1         6.0    75.0%     100.0      1.0       50%\n"
        "attention_backward         1         2.0    25.0%      50.0      0.5       25%\n"
        "------------------------------------------------------------------------------\n"
        "all                        2         8.0   100.0%      87.5      0.9       44%\n"
        "roofline: 200 GFLOP/s, 20.0 GB/s; above 100% the data came from a cache\n"
        "1 events came after the recorder was full and are not counted\n");
  CHECK(table(recorder{}).find("all") != std::string::npos);
}
