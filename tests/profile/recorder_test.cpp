// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>

#include <tenon/profile/recorder.hpp>

using namespace tenon::profile;

TEST_CASE("ranges nest, come inner first, and cost nothing without a recorder") {
  recorder r;
  {
    range outer(&r, "outer");
    { range inner(&r, "inner", {10, 20}); }
    { range none(nullptr, "none"); }
  }
  REQUIRE(r.events.size() == 2);
  CHECK(std::string(r.events[0].name) == "inner");
  CHECK(r.events[0].depth == 1);
  CHECK(r.events[0].done.flops == 10);
  CHECK(r.events[1].depth == 0);
  CHECK(r.events[1].begin_ns <= r.events[0].begin_ns);
  CHECK(r.events[1].end_ns >= r.events[0].end_ns);
  CHECK(r.depth == 0);
}

TEST_CASE("a recorder takes no memory after reserve, and stops at its limit") {
  recorder r;
  r.reserve(100);
  auto const* const where = r.events.data();
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 100; ++i) range const one(&r, "x");
    CHECK(r.events.data() == where);
    CHECK(r.events.size() == 100);
    r.clear();
  }
  r.limit = 10;
  for (int i = 0; i < 12; ++i) range const one(&r, "x");
  CHECK(r.events.size() == 10);
  CHECK(r.dropped == 2);
}
