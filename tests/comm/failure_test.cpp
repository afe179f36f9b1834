// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <tenon/comm.hpp>

using namespace tenon;
using comm::threads;

namespace {

// What each of `ranks` ranks threw, and what `run` did.
struct outcome {
  std::vector<std::string> of_rank;
  std::string of_run;
};
outcome run(int ranks, std::function<void(threads&)> const& f) {
  outcome o{std::vector<std::string>(std::size_t(ranks)), ""};
  try {
    threads::run(ranks, [&](threads& world) {
      try {
        f(world);
      } catch (std::exception const& e) {
        o.of_rank[std::size_t(world.rank())] = e.what();
        throw;
      }
    });
  } catch (std::exception const& e) {
    o.of_run = e.what();
  }
  return o;
}

}  // namespace

TEST_CASE("failure: a rank that throws ends all that wait for anybody") {
  std::array<float, 8> data{};
  std::vector<std::function<void(threads&)>> const waits{
      [](threads& c) { c.barrier(); }, [](threads& c) { c.split(c.rank() % 2, 0).barrier(), c.barrier(); },
      [&](threads& c) {  // for a rank that waits itself
        comm::transfer const t{(c.rank() + 1) % c.size(), false, &data, 4};
        c.exchange(std::span(&t, 1));
      },
      [](threads& c) { comm::wait_for_all(c, 60); },
      [](threads& c) {
        comm::stream<threads> s(c);
        s.wait(s.enqueue([](threads& own) { own.barrier(); }));
      }};
  for (auto const& wait : waits)
    for (int thrower : {0, 2}) {
      auto const o = run(4, [&](threads& world) {
        if (world.rank() == thrower) throw std::runtime_error("no disk");
        wait(world);
      });
      CHECK(o.of_run == "no disk");
      for (int r = 0; r < 4; ++r)
        if (r != thrower)
          CHECK(o.of_rank[std::size_t(r)] == "rank " + std::to_string(thrower) + " of 4 failed: no disk");
    }
}

TEST_CASE("failure: within an operation, while others look at this rank's memory") {
  for (int again = 0; again < 20; ++again) {
    auto const o = run(3, [&](threads& world) {
      std::vector<float> mine(10000, 1);
      float const* const shown = mine.data();
      std::vector<int> const one(3, 1);
      auto const cuts = comm::even_cuts(mine.size(), 3);
      world.visit_shards(std::span(&shown, 1), one, cuts, [&](std::size_t, std::size_t, auto vectors) {
        if (world.rank() == 1) throw std::runtime_error("cannot add");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        for (auto const* v : vectors) CHECK(v[0] == 1);
      });
    });
    CHECK(o.of_run == "cannot add");
    CHECK(o.of_rank[0] == "rank 1 of 3 failed: cannot add");
  }
}

TEST_CASE("failure: a rank that has returned is not waited for") {
  auto const o = run(3, [](threads& world) {
    if (world.rank() != 1) world.barrier();
  });
  CHECK(o.of_run.find("rank 1 of 3 has ended while rank ") == 0);
  auto const p = run(2, [](threads& world) {
    int got = 0;
    comm::transfer const t{1, false, &got, sizeof got};
    if (world.rank() == 0) world.exchange(std::span(&t, 1));
  });
  CHECK(p.of_run.find("rank 1 of 2 has ended while rank 0 waits for it") == 0);
}

TEST_CASE("failure: sizes that differ, no ranks, exceptions that are none") {
  auto const o = run(2, [](threads& world) {
    std::array<char, 8> data{};
    comm::transfer const t{1 - world.rank(), world.rank() == 0, &data, world.rank() == 0 ? 8u : 4u};
    world.exchange(std::span(&t, 1));
    world.barrier();
  });
  CHECK(o.of_run == "rank 0 sends 8 bytes where rank 1 expects 4. Fix: both must name the same size.");
  CHECK_THROWS_AS(threads::run(0, [](threads&) {}), argument_error);
  CHECK_THROWS_AS(threads::run(2,
                               [](threads& world) {
                                 if (world.rank() == 1) throw 7;
                                 world.barrier();
                               }),
                  int);
}

TEST_CASE("failure: a rank that fails while its stream waits for others") {
  auto const o = run(2, [](threads& world) {
    comm::stream<threads> s(world);
    if (world.rank() == 0) s.enqueue([](threads& own) { own.barrier(); });
    if (world.rank() == 0) throw std::runtime_error("rank 0 stops");
    world.barrier();
  });
  CHECK(o.of_run == "rank 0 stops");
}
