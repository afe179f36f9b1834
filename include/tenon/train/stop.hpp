// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How a run is asked from outside to save what it has and end, and what a supervisor tells the ranks it starts.
/// @test tests/fault/launch_test.py
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string>

namespace tenon {

/// What a program returns whose run was asked to stop and saved itself: started again it goes on. EX_TEMPFAIL of
/// sysexits.h, which batch systems can be told to start again.
inline constexpr int stopped_exit_code = 75;

namespace detail {
inline constinit std::atomic<bool> stop_flag{false};
}
/// Whether a signal has asked this process to stop, see `catch_stop_signals`.
inline bool stop_asked() { return detail::stop_flag; }
/// From now on SIGTERM, and SIGUSR1 as batch systems send it some time before a deadline, only ask to stop:
///
///     catch_stop_signals();
///     fit(trainer, text, {.steps = 1000, .out = "run", .stop = stop_asked});
inline void catch_stop_signals() {
  for (int const number : {SIGTERM, SIGUSR1}) std::signal(number, [](int) { detail::stop_flag = true; });
}

/// What a supervisor (examples/tenon-launch.cpp) tells by the environment; all empty without one.
struct launch_settings {
  std::string memory;    ///< TENON_LAUNCH_MEMORY: the folder for `fit_options::memory`
  std::string progress;  ///< TENON_LAUNCH_PROGRESS: the file for `fit_options::progress`
  launch_settings() : memory(variable("TENON_LAUNCH_MEMORY")), progress(variable("TENON_LAUNCH_PROGRESS")) {}
  explicit operator bool() const { return !progress.empty(); }

 private:
  static std::string variable(char const* name) {
    char const* const text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
    return text ? text : "";
  }
};

}  // namespace tenon
