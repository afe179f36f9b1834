// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/core/arena.hpp>
#include <tenon/exec/host/thread_pool.hpp>
#include <tenon/policy/device.hpp>
#include <tenon/profile/recorder.hpp>

namespace tenon::exec {

/// What an operation needs to run on the host: threads, scratch memory and, when asked for, a profiler. One per rank.
class host_context {
 public:
  using device = tenon::device::host;
  explicit host_context(int threads) : workers(threads) {}
  thread_pool& pool() { return workers; }
  /// Scratch for the length of one operation: take an `arena_scope` first.
  arena& scratch() { return temporary; }
  profile::recorder* profiler = nullptr;

 private:
  thread_pool workers;
  arena temporary;
};

}  // namespace tenon::exec
