// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranges around operations: name, time, floating point operations and bytes moved.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace tenon::profile {

/// What an operation does, by count: the numbers a roofline needs.
struct work {
  double flops = 0;
  double bytes = 0;
};
struct event {
  char const* name;  // a string literal
  std::int64_t begin_ns, end_ns;
  work done;
  int depth;
};
/// Collects events of one thread, inner ones before those around them; not thread-safe (operations are recorded by the
/// thread that calls them). After `reserve` it takes no memory until that many events are there.
/// @test tests/profile/recorder_test.cpp
class recorder {
 public:
  std::vector<event> events;
  int depth = 0;
  /// More events than this are counted, not kept: 48 bytes each, so that a long run does not fill the memory.
  std::size_t limit = std::size_t(1) << 22;
  std::size_t dropped = 0;

  std::int64_t now() const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
  }
  void add(event const& e) {
    if (events.size() < limit) events.push_back(e);
    else ++dropped;
  }
  void reserve(std::size_t count) { events.reserve(count < limit ? count : limit); }
  /// Forgets the events and keeps their memory. Not within a range.
  void clear() {
    events.clear();
    dropped = 0;
  }

 private:
  // The program's, so that the recorders of all its threads show the same moment as the same number.
  inline static std::chrono::steady_clock::time_point const start = std::chrono::steady_clock::now();
};
/// What one rank of a run does, a recorder for each kind of work at the same time. See `trainer::record`.
struct rank_recorder {
  int rank = 0;
  recorder computation{};             ///< operations and what they are for, by the thread that trains
  recorder communication{};           ///< by the same thread, which waits for it
  std::deque<recorder> background{};  ///< communication on threads beside it, one for each
};
/// Records from construction to destruction; with a null recorder it is one comparison.
class range {
 public:
  range(recorder* r, char const* name, work done = {}) : target(r) {
    if (target) pending = {name, target->now(), 0, done, target->depth++};
  }
  ~range() {
    if (!target) return;
    pending.end_ns = target->now();
    --target->depth;
    target->add(pending);
  }
  range(range const&) = delete;
  range& operator=(range const&) = delete;

 private:
  recorder* target;
  event pending{};
};

}  // namespace tenon::profile
