// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Collectives behind the scenes, in order, as on a stream of a device.
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include <tenon/comm/communicator.hpp>

namespace tenon::comm {

/// Names a piece of a stream's work; the default stands for none.
struct request {
  std::uint64_t number = 0;
};

/// Runs what is enqueued in order on a thread of its own, with a communicator of its own over the ranks of `group`: every
/// rank enqueues the same in the same order. A group of one runs it at once, without a thread.
/// What is thrown is thrown again by `wait`; what was enqueued behind it is not run.
/// @test tests/comm/stream_test.cpp
template <Communicator C>
class stream {
 public:
  /// A collective: all ranks of `group` make one.
  explicit stream(C& group) : own(group.split(0, group.rank())) {
    if (own.size() > 1) worker = std::thread([this] { run(); });
  }
  ~stream() {
    if (!worker.joinable()) return;
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    worker.join();
  }
  stream(stream const&) = delete;
  stream& operator=(stream const&) = delete;

  /// work(C&) later, behind what was enqueued before.
  template <class Work>
  request enqueue(Work&& work) {
    if (own.size() == 1) {
      work(own);
      return {};
    }
    std::uint64_t number = 0;
    {
      std::lock_guard lock(mutex);
      queue.emplace_back(std::forward<Work>(work));
      number = ++enqueued;
    }
    changed.notify_all();
    return {number};
  }
  /// Returns when the work is done.
  /// @error what the work, or work before it, threw
  void wait(request r) {
    if (r.number == 0) return;
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done >= r.number || failure; });
    if (failure) std::rethrow_exception(failure);
  }

 private:
  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || (!queue.empty() && !failure); });
      if (queue.empty() || failure) return;  // work that is left is still done
      auto const work = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      std::exception_ptr thrown;
      try {
        work(own);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      if (thrown) failure = thrown;
      else ++done;
      changed.notify_all();
    }
  }
  C own;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void(C&)>> queue;
  std::uint64_t enqueued = 0, done = 0;
  std::exception_ptr failure;
  bool stopping = false;
  std::thread worker;
};

}  // namespace tenon::comm
