// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <tenon/exec/host/thread_pool.hpp>

using tenon::index_t;
using tenon::exec::thread_pool;

namespace {
std::atomic<int> calls{0};
void plain_function(int) { calls.fetch_add(1); }
}  // namespace

TEST_CASE("thread_pool: run calls once per thread, the caller being thread 0") {
  for (int threads : {-3, 0, 1, 2, 3, 5, 8}) {
    thread_pool pool(threads);
    int const size = threads < 1 ? 1 : threads;
    CHECK(pool.size() == size);
    for (int again = 0; again < 20; ++again) {
      std::vector<int> count(std::size_t(size), 0);
      std::vector<std::thread::id> id(static_cast<std::size_t>(size));
      pool.run([&](int t) { ++count[std::size_t(t)], id[std::size_t(t)] = std::this_thread::get_id(); });
      CHECK(count == std::vector<int>(std::size_t(size), 1));
      CHECK(id[0] == std::this_thread::get_id());
      CHECK(std::set<std::thread::id>(id.begin(), id.end()).size() == std::size_t(size));
    }
  }
}

TEST_CASE("thread_pool: plain functions, const and move-only function objects") {
  thread_pool pool(3);
  calls = 0;
  pool.run(plain_function);
  auto const constant = [](int) { calls.fetch_add(1); };
  pool.run(constant);
  pool.run([held = std::make_unique<int>(1)](int) { calls.fetch_add(*held); });
  CHECK(calls == 9);
}

TEST_CASE("thread_pool: for_each and for_range visit every index once, whatever the sizes") {
  for (int threads : {1, 2, 4}) {
    thread_pool pool(threads);
    for (index_t n : {-1, 0, 1, 2, 3, 4, 17, 1000}) {
      std::vector<int> seen(std::size_t(n < 0 ? 0 : n), 0);
      pool.for_each(n, [&](index_t i) { ++seen[std::size_t(i)]; });
      CHECK(seen == std::vector<int>(seen.size(), 1));
      for (index_t grain : {1, 3, 16, 2000}) {
        std::fill(seen.begin(), seen.end(), 0);
        pool.for_range(n < 0 ? 0 : n, grain, [&](index_t begin, index_t end) {
          CHECK(begin < end);
          CHECK(end - begin <= grain);
          for (index_t i = begin; i < end; ++i) ++seen[std::size_t(i)];
        });
        CHECK(seen == std::vector<int>(seen.size(), 1));
      }
    }
  }
}

TEST_CASE("thread_pool: for_each begins with the same share on each thread at every call") {
  thread_pool pool(4);
  for (index_t n : {4, 8}) {
    std::vector<std::thread::id> first(static_cast<std::size_t>(n)), now(first.size());
    for (auto* seen : {&first, &now}) {
      std::atomic<int> begun{0};
      pool.for_each(n, [&](index_t i) {
        (*seen)[std::size_t(i)] = std::this_thread::get_id();
        begun.fetch_add(1);
        while (begun.load() < 4) std::this_thread::yield();  // so that nobody is there early and helps
      });
    }
    for (index_t i = 0; i < n; i += n / 4) CHECK(first[std::size_t(i)] == now[std::size_t(i)]);
    CHECK(std::set<std::thread::id>(first.begin(), first.end()).size() == 4);
  }
}

TEST_CASE("thread_pool: what one run writes, the next one reads") {
  thread_pool pool(4);
  std::vector<int> data(64, 0);
  for (int round = 0; round < 500; ++round)
    pool.for_each(64, [&](index_t i) { data[std::size_t((i + round) % 64)] += 1; });
  CHECK(data == std::vector<int>(64, 500));
}

TEST_CASE("thread_pool: an exception on any thread reaches the caller, and the pool works on") {
  thread_pool pool(4);
  for (int thrower = 0; thrower < 4; ++thrower) {
    std::atomic<int> others{0};
    bool caught = false;
    try {
      pool.run([&](int t) {
        if (t == thrower) throw std::runtime_error("from " + std::to_string(t));
        ++others;
      });
    } catch (std::runtime_error const& e) {
      caught = e.what() == "from " + std::to_string(thrower);
    }
    CHECK(caught);
    CHECK(others == 3);  // the others were not cut short
  }
  CHECK_THROWS_AS(pool.run([](int) { throw 7; }), int);
  auto const fifty = [](index_t i) {
    if (i == 50) throw std::logic_error("fifty");
  };
  CHECK_THROWS_AS(pool.for_each(100, fifty), std::logic_error);
  std::atomic<int> after{0};
  pool.run([&](int) { ++after; });
  CHECK(after == 4);
  thread_pool one(1);
  CHECK_THROWS_AS(one.run([](int) { throw 7; }), int);
  one.run([&](int) { ++after; });
  CHECK(after == 5);
}

TEST_CASE("thread_pool: a call from inside runs on its own thread, and its exceptions come through") {
  thread_pool pool(3);
  std::atomic<int> inner{0}, foreign{0};
  pool.run([&](int) {
    auto const me = std::this_thread::get_id();
    pool.run([&](int) {
      ++inner;
      if (std::this_thread::get_id() != me) ++foreign;
    });
    pool.for_each(10, [&](index_t) {
      ++inner;
      if (std::this_thread::get_id() != me) ++foreign;
    });
  });
  CHECK(inner == 3 * 3 + 3 * 10);
  CHECK(foreign == 0);
  CHECK_THROWS_AS(pool.run([&](int t) {
    pool.run([&](int u) {
      if (t == 2 && u == 1) throw 7;
    });
  }),
                  int);
  pool.run([&](int) { ++inner; });
  CHECK(inner == 9 + 30 + 3);
}

TEST_CASE("thread_pool: several pools at once share nothing") {
  constexpr int ranks = 4;
  std::vector<long> sums(ranks, 0);
  std::vector<std::thread> rank_threads;
  for (int r = 0; r < ranks; ++r)
    rank_threads.emplace_back([&, r] {
      thread_pool pool(2 + r % 2);
      std::vector<long> parts(100, 0);
      for (int round = 0; round < 100; ++round) pool.for_each(100, [&](index_t i) { parts[std::size_t(i)] += i + r; });
      sums[std::size_t(r)] = std::accumulate(parts.begin(), parts.end(), 0L);
    });
  for (auto& t : rank_threads) t.join();
  for (int r = 0; r < ranks; ++r) CHECK(sums[std::size_t(r)] == 100L * (4950 + 100 * r));
}

TEST_CASE("thread_pool: threads that sleep wake up, and callers that sleep too") {
  using namespace std::chrono_literals;
  thread_pool pool(3);
  std::atomic<int> count{0};
  for (int i = 0; i < 15; ++i) {
    std::this_thread::sleep_for(2ms);  // longer than the spin: workers sleep
    pool.run([&](int t) {
      if (t == i % 3) std::this_thread::sleep_for(2ms);  // longer than the spin: the caller sleeps when t is not 0
      ++count;
    });
  }
  CHECK(count == 45);
}

TEST_CASE("thread_pool: a stop finds its threads spinning, asleep or not yet begun") {
  using namespace std::chrono_literals;
  for (int i = 0; i < 60; ++i) {
    thread_pool pool(1 + i % 5);
    if (i % 3 == 1) pool.run([](int) {});
    if (i % 10 == 2) std::this_thread::sleep_for(1ms);
  }
  CHECK(true);
}

TEST_CASE("thread_pool: many short runs, with and without gaps around the length of the spin") {
  thread_pool pool(4);
  std::atomic<long> count{0};
  for (int i = 0; i < 800; ++i) {
    pool.run([&](int) { count.fetch_add(1, std::memory_order_relaxed); });
    if (i % 16 == 0) {
      auto const until = std::chrono::steady_clock::now() + std::chrono::microseconds(20 + i % 60);
      while (std::chrono::steady_clock::now() < until) {
      }
    }
  }
  CHECK(count == 3200);
}
