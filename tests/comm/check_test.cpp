// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <tenon/comm.hpp>

using namespace tenon;
using comm::threads;

TEST_CASE("check_same: the first rank that differs, on every rank") {
  std::vector<std::string> said(5);
  threads::run(5, [&](threads& world) {
    try {
      comm::check_same(world, "policies", world.rank() < 3 ? "fp32" : "bf16 and rank " + std::to_string(world.rank()));
    } catch (error const& e) {
      CHECK(e.code == errc::comm_failed);
      said[std::size_t(world.rank())] = e.what();
    }
    comm::check_same(world, "policies", "");  // and goes on
  });
  for (auto const& s : said)
    CHECK(s ==
          "ranks differ in their policies: rank 0 has 'fp32', rank 3 has 'bf16 and rank 3'. Fix: start the same "
          "program with the same options on every rank.");
}

TEST_CASE("wait_for_all: names the ranks that do not come") {
  auto const begin = std::chrono::steady_clock::now();
  std::vector<std::string> said(4);
  std::string run_said;
  try {
    threads::run(4, [&](threads& world) {
      if (world.rank() % 2 == 1) std::this_thread::sleep_for(std::chrono::milliseconds(600));
      try {
        comm::wait_for_all(world, 0.2);
      } catch (error const& e) {
        said[std::size_t(world.rank())] = e.what();
        throw;
      }
    });
  } catch (error const& e) {
    run_said = e.what();
  }
  CHECK(run_said.find("of 4 ranks these have not come in 0 s: 1, 3. Fix: ") == 0);
  CHECK(said[1].find("failed: of 4 ranks") != std::string::npos);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
}

TEST_CASE("first_sentence: the first rank's that has any, on every rank") {
  threads::run(3, [](threads& world) {
    CHECK(comm::first_sentence(world, "").empty());
    std::string const mine = world.rank() == 0 ? "" : "rank " + std::to_string(world.rank());
    CHECK(comm::first_sentence(world, mine) == "rank 1");
    CHECK(comm::first_sentence(world, world.rank() == 2 ? "last" : "") == "last");
  });
}

TEST_CASE("start_timeout: from the environment") {
  ::unsetenv("TENON_START_TIMEOUT");
  CHECK(comm::start_timeout() == 60);
  ::setenv("TENON_START_TIMEOUT", "5", 1);
  CHECK(comm::start_timeout() == 5);
  for (char const* wrong : {"", "0", "-1", "5s", "x"}) {
    ::setenv("TENON_START_TIMEOUT", wrong, 1);
    CHECK_THROWS_AS(comm::start_timeout(), argument_error);
  }
  ::unsetenv("TENON_START_TIMEOUT");
}
