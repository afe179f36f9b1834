// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <io/scratch_folder.hpp>
#include <tenon/profile/chrome_trace.hpp>

using namespace tenon::profile;

TEST_CASE("a chrome trace is JSON with complete events, outer ones first, times in microseconds") {
  scratch_folder const folder;
  rank_recorder rank{.rank = 3};
  recorder& r = rank.computation;
  r.add({"gemm \"x\"", 1500, 3500, {4000, 1000}, 1});
  r.add({"step", 1500, 9001, {}, 0});
  r.add({"nothing", 9001, 9001, {1, 1}, 0});
  rank.background.emplace_back().add({"all_gather", 2000, 3000, {0, 1000}, 0});
  rank_recorder other{.rank = 4};
  other.communication.add({"exchange", 0, 1000, {0, 1000}, 0});
  other.communication.dropped = 7;
  rank_recorder const* const ranks[] = {&rank, &other};
  write_chrome_trace(folder / "trace.json", ranks);
  auto const trace = nlohmann::json::parse(folder.read("trace.json"));
  auto const& events = trace.at("traceEvents");
  REQUIRE(events.size() == 10);
  CHECK(events[0].at("ph") == "M");
  CHECK(events[2].at("name") == "step");
  CHECK(events[2].at("ts") == 1.5);
  CHECK(events[2].at("dur") == 7.501);
  CHECK_FALSE(events[2].contains("args"));
  CHECK(events[3].at("name") == "gemm \"x\"");
  CHECK(events[3].at("ph") == "X");
  CHECK(events[3].at("pid") == 3);
  CHECK(events[3].at("args").at("GFLOP/s") == 2.0);
  CHECK(events[3].at("args").at("GB/s") == 0.5);
  CHECK(events[4].at("dur") == 0.0);
  CHECK_FALSE(events[4].at("args").contains("GFLOP/s"));
  CHECK(trace.at("otherData").at("dropped_events") == 7);
  auto const is_track = [&](std::size_t name, int rank_of_it, int thread, char const* what) {
    CHECK(events[name].at("args").at("name") == what);
    for (std::size_t i : {name, name + 1}) {
      CHECK(events[i].at("pid") == rank_of_it);
      CHECK(events[i].at("tid") == thread);
    }
  };
  is_track(5, 3, 2, "communication beside it");
  CHECK(events[6].at("name") == "all_gather");
  CHECK(events[7].at("args").at("name") == "tenon rank 4");
  is_track(8, 4, 1, "communication, waited for");
}

TEST_CASE("a large trace and an empty one are JSON too; a bad place is named") {
  scratch_folder const folder;
  rank_recorder r;
  auto const write = [&, all = &r](std::filesystem::path const& file) { write_chrome_trace(file, {&all, 1}); };
  write(folder / "a");
  CHECK(nlohmann::json::parse(folder.read("a")).at("traceEvents").size() == 1);
  for (int i = 0; i < 20000; ++i) r.computation.add({"op", i * 10, i * 10 + 7, {1e9, 1e6}, 0});
  write(folder / "a");
  CHECK(nlohmann::json::parse(folder.read("a")).at("traceEvents").size() == 20002);
  CHECK(is_one_sentence(message_of([&] { write(folder / "no/such"); })));
  if (std::filesystem::exists("/dev/full")) CHECK(is_one_sentence(message_of([&] { write("/dev/full"); })));
}
