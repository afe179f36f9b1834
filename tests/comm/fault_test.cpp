// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS fault PROCESSORS 2
#include "fault_body.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

using namespace tenon;
using comm::threads;
using namespace fault_body;

// TENON_FAULTS says how many; tests/comm/mpi_fault_test.py runs many, and those that only processes can have.
TEST_CASE("faults of ranks that are threads are named on every rank within a second") {
  char const* const many = std::getenv("TENON_FAULTS");
  int const count = many ? std::atoi(many) : 20;
  double longest = 0;
  for (int seed = 0; seed < count; ++seed) {
    fault const f(std::uint64_t(seed), 3 + seed % 3);
    CAPTURE(describe(f));
    std::vector<std::string> texts(std::size_t(f.ranks));
    std::atomic<std::int64_t> begin{0}, end{0};
    std::atomic<int> told{0};
    auto const rank = [&](threads& world) {
      try {
        make_calls(world, f, [&] {
          begin = now();
          while (f.what == kind::sleeping && told < f.ranks - 1)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        });
      } catch (error const& e) {
        texts[std::size_t(world.rank())] = e.what();
        if (told++ == 0 || world.rank() != f.rank) end = now();
        throw;
      }
    };
    CHECK_THROWS_AS(threads::run(f.ranks, rank, watching), error);
    for (auto const& text : texts) {
      CAPTURE(text);
      CHECK(text == texts[0]);
      CHECK(judge(f, text) == "");
    }
    longest = std::max(longest, seconds(end - begin));
  }
  MESSAGE(count << " faults of threads, the last rank was told after at most " << longest << " s");
  CHECK(longest < 1);
}
