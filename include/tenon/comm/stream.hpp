// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Communication beside the work of a rank.   @test tests/comm/stream_test.cpp
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>

#include <tenon/comm/communicator.hpp>
#include <tenon/comm/self.hpp>
#include <tenon/comm/site.hpp>
#include <tenon/core/config.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/wait.hpp>

namespace tenon::comm {

/// Runs functions in order on a thread of its own, with a communicator of its own: what NCCL does on a CUDA stream. All
/// ranks of a group make one, and enqueue what talks in the same order. `enqueue` and `wait` belong to one thread.
///
///     auto const sum = stream.enqueue([&](auto& c) { all_reduce(c, gradients); });
///     ...                 // other work
///     stream.wait(sum);   // rethrows what went wrong up to there
///
/// After an exception nothing more is run.
template <Communicator C>
class stream {
 public:
  using request = std::uint64_t;  ///< the how-manieth function

  explicit stream(C& from) : group(from.split(0, from.rank())) {
    if constexpr (requires { C::concurrent(); })
      if (!C::concurrent())
        throw error(errc::comm_failed,
                    "this MPI was begun without MPI_THREAD_MULTIPLE, which comm::stream needs. Fix: begin it with "
                    "MPI_Init_thread and MPI_THREAD_MULTIPLE, or leave it to tenon::comm::mpi.");
    worker = std::thread([this] { work(); });
  }
  ~stream() {
    if (std::uncaught_exceptions() > exceptions) group.abandon();  // others may never do what this rank waits for
    enqueue([this](C&) { stopping = true; }, true);
    worker.join();
  }
  stream(stream const&) = delete;
  stream& operator=(stream const&) = delete;

  /// f(communicator), later; waits when `capacity` functions are waiting.
  template <class F>
  request enqueue(F f) {
    return enqueue(std::move(f), false);
  }
  void wait(request r) {
    profile::range const waiting(finished.load(std::memory_order_relaxed) < r ? waits : nullptr, "wait");
    wait_until(finished, [&](request now) { return now >= r; });
    if (failed.load(std::memory_order_acquire) <= r) std::rethrow_exception(failure);
  }
  void wait_all() { wait(enqueued.load(std::memory_order_relaxed)); }
  /// Records from here on what the stream's thread communicates and how long the caller waits for it; null: no more.
  void record(profile::recorder* communication, profile::recorder* caller) {
    wait(enqueue([communication](C& c) { c.profiler = communication; }));
    waits = caller;
  }

 private:
  static constexpr std::size_t capacity = 64, room = 96;
  struct task {
    alignas(std::max_align_t) std::byte function[room];
    void (*run)(std::byte* function, C*);  // and destroys the function; does not run it without a communicator
    bool always;
    call_site from;  // where it was enqueued
  };

  template <class F>
  request enqueue(F f, bool always) {
    static_assert(sizeof(F) <= room && std::is_nothrow_move_constructible_v<F>,
                  "tenon::comm::stream: the function captures too much. Fix: capture by reference or by pointer.");
    request const number = enqueued.load(std::memory_order_relaxed) + 1;
    wait_until(finished, [&](request now) { return now + capacity >= number; });
    task& t = tasks[number % capacity];
    ::new (t.function) F(std::move(f));
    t.run = [](std::byte* function, C* c) {
      F& stored = *std::launder(reinterpret_cast<F*>(function));
      struct destroy {
        F& f;
        ~destroy() { f.~F(); }
      } const last{stored};
      if (c) stored(*c);
    };
    t.always = always;
    t.from = detail::current_site;
    enqueued.store(number);
    enqueued.notify_all();
    return number;
  }
  void work() {
    for (request number = 1; !stopping; ++number) {
      wait_until(enqueued, [&](request now) { return now >= number; });
      task& t = tasks[number % capacity];
      detail::current_site = t.from;
      try {
        t.run(t.function, failure && !t.always ? nullptr : &group);
      } catch (...) {
        failure = std::current_exception();
        failed.store(number, std::memory_order_release);
      }
      finished.store(number);
      finished.notify_all();
    }
  }

  C group;
  profile::recorder* waits = nullptr;
  std::array<task, capacity> tasks;
  alignas(cache_line_bytes) std::atomic<request> enqueued{0};
  alignas(cache_line_bytes) std::atomic<request> finished{0};
  bool stopping = false;       // the worker's
  std::exception_ptr failure;  // written before `failed`
  std::atomic<request> failed{std::numeric_limits<request>::max()};
  int exceptions = std::uncaught_exceptions();
  std::thread worker;
};

/// One rank has nobody to wait for: everything runs at once, and throws from `enqueue`.
template <>
class stream<self> {
 public:
  using request = int;
  explicit stream(self&) {}
  template <class F>
  request enqueue(F f) {
    self alone;
    f(alone);
    return 0;
  }
  void wait(request) {}
  void wait_all() {}
  void record(profile::recorder*, profile::recorder*) {}
};

}  // namespace tenon::comm
