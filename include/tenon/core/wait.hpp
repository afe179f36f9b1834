// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <atomic>
#include <thread>

#include <tenon/core/config.hpp>

namespace tenon {

/// One turn of a loop that waits for another thread. Now and then the core is offered to others: with more threads than
/// cores (ranks of one process, a busy machine) the one that is waited for would otherwise wait for the spinner's time
/// slice to end.
inline void spin_pause(int turn) {
#if defined(__x86_64__)
  if (turn % 128 != 0) return __builtin_ia32_pause();
#endif
  static_cast<void>(turn);
  std::this_thread::yield();
}

/// Returns the first value of `at` for which done(value) holds: spins for about 40 us, longer than the gap between two
/// operations, then sleeps. Who changes `at` does so by a read-modify-write or with seq_cst, and then notifies.
/// @test tests/exec/thread_pool_test.cpp
template <class T, class Done>
T wait_until(std::atomic<T> const& at, Done&& done) {
  constexpr int spins_before_sleep = 4000;
  for (int turn = 0;;) {
    T const value = at.load(std::memory_order_acquire);
    if (done(value)) return value;
    if (++turn < spins_before_sleep) spin_pause(turn);
    else at.wait(value, std::memory_order_acquire);
  }
}

}  // namespace tenon
