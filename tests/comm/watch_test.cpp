// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: PROCESSORS 2
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <tenon/comm.hpp>

using namespace tenon;
using comm::threads;

namespace {

constexpr comm::watch_options on{.late_after = 0.4};

// What `run` threw, and after how many seconds.
struct outcome {
  std::string text;
  double seconds = 0;
};
outcome run(int ranks, std::function<void(threads&)> const& f) {
  auto const begin = std::chrono::steady_clock::now();
  outcome o;
  try {
    threads::run(ranks, f, on);
  } catch (error const& e) {
    o.text = e.what();
  }
  o.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return o;
}
bool has(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("watch: a call that differs is named, and what was expected") {
  auto const o = run(4, [](threads& world) {
    std::array<float, 64> data{};
    for (index_t i = 0; i < 10; ++i) {
      comm::site const here("step", i);
      comm::all_reduce(world, data);
      if (world.rank() == 2 && i == 7) {
        std::int64_t one = 1;
        world.sum({&one, 1});
      } else {
        world.barrier();
      }
    }
  });
  CHECK(o.text ==
        "hang watch: rank 2 of 4 came with sum of 8 bytes of int64 at step 7 (call 16 of its group), where 3 ranks "
        "expect "
        "barrier at step 7 (call 16 of its group). Fix: all ranks of a group must make the same calls in the same "
        "order.");
  CHECK(o.seconds < 1);
}

TEST_CASE("watch: sizes, types, order and places are compared; nothing is when all is well") {
  std::array<std::byte, 512> bytes{};
  auto const fault = [&](std::function<void(threads&)> const& of_rank_1) {
    return run(3,
               [&](threads& world) {
                 std::array<std::byte, 512> own{};
                 {
                   comm::site const here("layer", 3);
                   if (world.rank() == 1) of_rank_1(world);
                   else world.broadcast(std::span(own).first(300), 0);
                 }
                 comm::site const here("layer", 4);
                 world.broadcast(std::span(own).first(300), 0);
               })
        .text;
  };
  auto const broadcast = [&](threads& c, std::size_t n, int root) { c.broadcast(std::span(bytes).first(n), root); };
  std::string const expected =
      " (call 1 of its group), where 2 ranks expect broadcast of 300 bytes from member 0 at layer 3 (";
  std::string const came = "hang watch: rank 1 of 3 came with ";
  CHECK(has(fault([&](threads& c) { broadcast(c, 299, 0); }),
            came + "broadcast of 299 bytes from member 0 at layer 3" + expected));
  CHECK(has(fault([&](threads& c) { broadcast(c, 300, 2); }),
            came + "broadcast of 300 bytes from member 2 at layer 3" + expected));
  CHECK(has(fault([&](threads&) {}), came + "broadcast of 300 bytes from member 0 at layer 4" + expected));
  CHECK(has(fault([&](threads& c) { c.split(0, 0); }), came + "split at layer 3" + expected));
  CHECK(fault([&](threads& c) { broadcast(c, 300, 0); }).empty());
}

TEST_CASE("watch: transfers between two ranks") {
  for (std::size_t expected : {4u, 8u}) {
    auto const o = run(3, [&](threads& world) {
      std::array<char, 8> data{};
      if (world.rank() == 2) return;
      comm::site const here("stage", world.rank());
      comm::transfer const t{1 - world.rank(), world.rank() == 0, &data, world.rank() == 0 ? 8u : expected};
      for (int i = 0; i < 100; ++i) world.exchange(std::span(&t, 1));
    });
    CHECK(o.text == (expected == 8
                         ? ""
                         : "hang watch: rank 0 of 3 sends 8 bytes in exchange at stage 0 where rank 1 expects "
                           "4 bytes in exchange at stage 1 (transfer 1 between them). Fix: both must name "
                           "the same size."));
  }
}

TEST_CASE("watch: a rank that does not come, and who waits for it") {
  for (bool chain : {false, true}) {
    auto const o = run(4, [&](threads& world) {
      auto half = world.split(world.rank() / 2, 0), even = world.split(world.rank() % 2, 0);
      if (world.rank() == 3) {
        std::this_thread::sleep_for(std::chrono::seconds(1));
        return world.barrier();
      }
      comm::site const here("layer", 1);
      if (!chain) world.barrier();
      // Rank 0 waits for rank 2, which waits for rank 3.
      if (world.rank() == 2) half.barrier();
      if (world.rank() % 2 == 0) even.barrier();
    });
    CHECK(has(o.text, "hang watch: rank 3 of 4 has not come to barrier at layer 1 (call "));
    CHECK(has(o.text, chain ? "where rank 2 waits for it; waited 0." : " waits for it; waited 0."));
    CHECK(has(o.text, " s. It is in no call; its last was split (call 2 of its group). Fix: "));
    CHECK(o.seconds < 1.3);
  }
}

TEST_CASE("watch: ranks that wait for each other, and a rank that ended") {
  auto const o = run(2, [&](threads& world) {
    auto again = world.split(0, world.rank());
    (world.rank() == 0 ? world : again).barrier();
    (world.rank() == 0 ? again : world).barrier();
  });
  CHECK(has(o.text, "hang watch: ranks have waited for each other for 0."));
  CHECK(has(o.text, "rank 0 of 2 in barrier (call 2 of its group) for rank 1"));
  CHECK(has(o.text, "rank 1 of 2 in barrier (call 1 of its group) for rank 0"));
  CHECK(o.seconds < 1);
  auto const p = run(3, [](threads& world) {
    if (world.rank() == 1) return;
    comm::site const here("step", 3);
    world.barrier();
  });
  CHECK(has(p.text, "hang watch: rank 1 of 3 has not come to barrier at step 3 (call 1 of its group), where rank "));
  CHECK(has(p.text, "It has ended; its last call was none"));
  CHECK(p.seconds < 0.3);
}

TEST_CASE("watch: a stream's calls are made where they were enqueued") {
  auto const o = run(2, [](threads& world) {
    comm::stream<threads> s(world);
    comm::site const here("backward", 1);
    {
      comm::site const inner("layer", world.rank());
      s.enqueue([](threads& own) { own.barrier(); });
    }
    s.wait_all();
  });
  CHECK(has(o.text,
            "rank 1 of 2 came with barrier at backward 1, layer 1 (call 1 of its group), where rank 0 expects "
            "barrier at backward 1, layer 0 (call 1"));
}

TEST_CASE("watch: what the environment says") {
  CHECK(comm::watch_options::from_environment().late_after == 0);
  for (char const* bad : {"", "0", "-1", "x", "1s", "nan"}) {
    setenv("TENON_WATCH", bad, 1);
    CHECK_THROWS_AS(comm::watch_options::from_environment(), argument_error);
  }
  setenv("TENON_WATCH", "2.5", 1);
  CHECK(comm::watch_options::from_environment().late_after == 2.5);
  unsetenv("TENON_WATCH");
}

TEST_CASE("watch: a rank that never comes back ends its process") {
  auto const begin = std::chrono::steady_clock::now();
  pid_t const child = fork();
  if (child == 0) {
    fclose(stderr);
    try {
      threads::run(3,
                   [](threads& world) {
                     if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::minutes(1));
                     world.barrier();
                   },
                   {.late_after = 0.2, .grace = 0.2});
    } catch (error const&) {
      _exit(2);
    }
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
}
