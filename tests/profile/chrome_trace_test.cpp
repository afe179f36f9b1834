// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <io/scratch_folder.hpp>
#include <tenon/profile/chrome_trace.hpp>

using namespace tenon::profile;

TEST_CASE("a chrome trace is JSON with complete events, outer ones first, times in microseconds") {
  scratch_folder const folder;
  recorder r;
  r.add({"gemm \"x\"", 1500, 3500, {4000, 1000}, 1});
  r.add({"step", 1500, 9001, {}, 0});
  r.add({"nothing", 9001, 9001, {1, 1}, 0});
  write_chrome_trace(folder / "trace.json", r, 3);
  auto const trace = nlohmann::json::parse(folder.read("trace.json"));
  auto const& events = trace.at("traceEvents");
  REQUIRE(events.size() == 4);
  CHECK(events[0].at("ph") == "M");
  CHECK(events[1].at("name") == "step");
  CHECK(events[1].at("ts") == 1.5);
  CHECK(events[1].at("dur") == 7.501);
  CHECK_FALSE(events[1].contains("args"));
  CHECK(events[2].at("name") == "gemm \"x\"");
  CHECK(events[2].at("ph") == "X");
  CHECK(events[2].at("pid") == 3);
  CHECK(events[2].at("args").at("GFLOP/s") == 2.0);
  CHECK(events[2].at("args").at("GB/s") == 0.5);
  CHECK(events[3].at("dur") == 0.0);
  CHECK_FALSE(events[3].at("args").contains("GFLOP/s"));
}

TEST_CASE("a large trace and an empty one are JSON too; a bad place is named") {
  scratch_folder const folder;
  recorder r;
  write_chrome_trace(folder / "a", r);
  CHECK(nlohmann::json::parse(folder.read("a")).at("traceEvents").size() == 1);
  for (int i = 0; i < 20000; ++i) r.add({"op", i * 10, i * 10 + 7, {1e9, 1e6}, 0});
  write_chrome_trace(folder / "a", r);
  CHECK(nlohmann::json::parse(folder.read("a")).at("traceEvents").size() == 20001);
  CHECK(is_one_sentence(message_of([&] { write_chrome_trace(folder / "no/such", r); })));
  if (std::filesystem::exists("/dev/full"))
    CHECK(is_one_sentence(message_of([&] { write_chrome_trace("/dev/full", r); })));
}
