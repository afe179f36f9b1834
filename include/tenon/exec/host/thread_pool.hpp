// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A fork-join pool of threads.   @test tests/exec/thread_pool_test.cpp
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <tenon/core/config.hpp>
#include <tenon/core/view.hpp>
#include <tenon/core/wait.hpp>

namespace tenon::exec {

/// Fork-join: `run` calls a function once on each of `size()` threads, the caller being thread 0, and returns when all
/// have returned. Workers spin briefly, then sleep. A pool belongs to one rank: several ranks in one process each have
/// their own and share nothing. Which thread does what never changes a result: tasks write disjoint memory.
/// An exception thrown by the function on any thread is rethrown by `run`.
class thread_pool {
 public:
  explicit thread_pool(int threads) : count(threads < 1 ? 1 : threads) {
    try {
      for (int t = 1; t < count; ++t) workers.emplace_back([this, t] { work(t); });
    } catch (...) {  // the system has no more threads: end those that began
      stop();
      throw;
    }
  }
  ~thread_pool() { stop(); }
  thread_pool(thread_pool const&) = delete;
  thread_pool& operator=(thread_pool const&) = delete;

  int size() const { return count; }

  /// function(thread) on every thread. A call from within `function` runs all of it on the calling thread. Two threads
  /// that do not belong to the pool must not call at the same time.
  template <class Function>
  void run(Function&& function) {
    if (count == 1 || busy) {
      for (int t = 0; t < count; ++t) function(t);
      return;
    }
    busy = true;
    auto call = [&](int t) { function(t); };
    task = [](void* f, int t) { (*static_cast<decltype(call)*>(f))(t); };
    argument = &call;
    remaining.store(count - 1, std::memory_order_relaxed);
    launch();
    guarded(0);
    wait_until(remaining, [](int left) { return left == 0; });
    busy = false;
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  }

  /// function(i) for i in [0, n). Each thread begins with a share of its own, the same at every call, so that it finds in
  /// its cache what it left there, and then helps the others with theirs.
  template <class Function>
  void for_each(index_t n, Function&& function) {
    if (count == 1 || n <= 1 || busy) {
      for (index_t i = 0; i < n; ++i) function(i);
      return;
    }
    auto const begin_of = [&](int t) { return n * t / count; };
    for (int t = 0; t < count; ++t) shares[std::size_t(t)].next.store(begin_of(t), std::memory_order_relaxed);
    run([&](int thread) {
      for (int k = 0; k < count; ++k) {
        int const t = thread + k < count ? thread + k : thread + k - count;
        auto& next = shares[std::size_t(t)].next;
        index_t const end = begin_of(t + 1);
        while (next.load(std::memory_order_relaxed) < end)
          if (index_t const i = next.fetch_add(1, std::memory_order_relaxed); i < end) function(i);
      }
    });
  }

  /// function(begin, end) over [0, n) cut into pieces of `grain`, which are handed out as by `for_each`.
  template <class Function>
  void for_range(index_t n, index_t grain, Function&& function) {
    index_t const pieces = (n + grain - 1) / grain;
    for_each(pieces, [&](index_t p) { function(p * grain, p * grain + grain < n ? p * grain + grain : n); });
  }

 private:
  void stop() {
    stopping.store(true, std::memory_order_relaxed);
    launch();
    for (auto& w : workers) w.join();
  }
  void launch() {
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
  }
  void guarded(int t) {
    try {
      task(argument, t);
    } catch (...) {
      std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }
  void work(int t) {
    for (unsigned seen = 0;;) {
      wait_until(generation, [&](unsigned now) { return now != seen; });
      ++seen;
      if (stopping.load(std::memory_order_relaxed)) return;
      guarded(t);
      if (remaining.fetch_sub(1, std::memory_order_acq_rel) == 1) remaining.notify_one();
    }
  }

  /// What is left of a thread's share in `for_each`.
  struct alignas(cache_line_bytes) share {
    std::atomic<index_t> next{0};
  };
  int count;
  std::vector<share> shares = std::vector<share>(std::size_t(count));
  bool busy = false;
  void (*task)(void*, int) = nullptr;
  void* argument = nullptr;
  std::exception_ptr failure;
  std::mutex failure_mutex;
  alignas(cache_line_bytes) std::atomic<unsigned> generation{0};
  alignas(cache_line_bytes) std::atomic<int> remaining{0};
  std::atomic<bool> stopping{false};
  std::vector<std::thread> workers;
};

}  // namespace tenon::exec
