// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file measure_compiler [--limit-mb N] [--limit-seconds N] COMMAND...
/// Runs COMMAND and prints its processor time and the peak memory of its largest process; fails past a limit.
/// Processor time, not the clock's: the machine may be busy with other tests.
#include <cstdio>
#include <cstdlib>
#include <string>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char** argv) {
  double limit_mb = 0, limit_seconds = 0;
  int i = 1;
  for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
    std::string const flag = argv[i];
    if (flag == "--limit-mb") limit_mb = std::atof(argv[i + 1]);
    if (flag == "--limit-seconds") limit_seconds = std::atof(argv[i + 1]);
  }
  if (i >= argc) return std::fprintf(stderr, "measure_compiler: no command given\n"), 2;
  pid_t const child = fork();
  if (child == 0) {
    execvp(argv[i], argv + i);
    std::perror(argv[i]);
    _exit(127);
  }
  int status = 0;
  rusage usage{};
  if (child < 0 || wait4(child, &status, 0, &usage) < 0) return std::perror("measure_compiler"), 2;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::fprintf(stderr, "the command failed\n"), 1;
#if defined(__APPLE__)
  double const mb = double(usage.ru_maxrss) / 1e6;
#else
  double const mb = double(usage.ru_maxrss) * 1024 / 1e6;
#endif
  auto const seconds_of = [](timeval t) { return double(t.tv_sec) + double(t.tv_usec) * 1e-6; };
  double const seconds = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
  std::printf("%6.1f MB %6.2f s\n", mb, seconds);
  if (limit_mb > 0 && mb > limit_mb) return std::printf("more than the limit of %.0f MB\n", limit_mb), 1;
  if (limit_seconds > 0 && seconds > limit_seconds)
    return std::printf("more than the limit of %.0f s\n", limit_seconds), 1;
  return 0;
}
