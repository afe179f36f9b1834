// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: tenon::mpi
/// @file Sums over two ranks: threads, MPI processes, and MPI's own MPI_Allreduce. A Markdown table.
///
///     comm_bench [--rounds R]                                  ranks are threads
///     mpirun -np 2 --bind-to core comm_bench [--rounds R]      ranks are processes
///
/// The bound is what memory allows: every vector must be read once and written once, so it is the time in which all
/// ranks at once pass over their own vectors in place, in two streams as a sum does. Candidates take turns; figures are
/// medians over rounds.
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <tenon/comm.hpp>
#include <tenon/comm/mpi.hpp>

namespace {

namespace comm = tenon::comm;

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void stay_on_core(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(unsigned(core), &set);
  sched_setaffinity(0, sizeof set, &set);
}

struct candidate {
  char const* name;
  std::function<void(std::span<float>)> run;
};

/// Seconds of one call, over enough calls in a row for 20 ms.
template <class C>
double seconds_of(C& c, candidate const& what, std::span<float> data) {
  std::size_t const calls = std::clamp<std::size_t>((std::size_t(64) << 20) / data.size_bytes(), 1, 10000);
  what.run(data);
  c.barrier();
  auto const begin = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < calls; ++i) what.run(data);
  c.barrier();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / double(calls);
}

template <class C>
void measure(C& c, std::vector<candidate> const& sums, int rounds) {
  candidate const pass{"one pass in place", [](std::span<float> data) {
                         float* const half = data.data() + data.size() / 2;
                         for (std::size_t i = 0; i < data.size() / 2; ++i) data[i] += 1, half[i] += 1;
                       }};
  for (std::size_t bytes : {std::size_t(1) << 10, std::size_t(1) << 20, std::size_t(64) << 20}) {
    std::vector<float> data(bytes / sizeof(float));
    std::vector<double> bound;
    std::vector<std::vector<double>> times(sums.size());
    for (int r = 0; r < rounds; ++r) {
      bound.push_back(seconds_of(c, pass, data));
      for (std::size_t i = 0; i < sums.size(); ++i) times[i].push_back(seconds_of(c, sums[i], data));
    }
    for (std::size_t i = 0; i < sums.size() && c.rank() == 0; ++i) {
      double const t = median(times[i]);
      std::printf("| %s | %zu KiB | %.1f | %.2f | %.1f | %.0f %% |\n", sums[i].name, bytes >> 10, t * 1e6,
                  double(bytes) / t * 1e-9, median(bound) * 1e6, 100 * median(bound) / t);
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return comm::run_mpi(argc, argv, [&](comm::mpi& world) {
    int const rounds = argc == 3 && std::string(argv[1]) == "--rounds" ? std::atoi(argv[2]) : 9;
    if (world.rank() == 0)
      std::printf(
          "| sum over %d ranks | size | us | GB/s of one rank's vector | bound, us | share of the bound |\n"
          "| --- | --- | --- | --- | --- | --- |\n",
          std::max(2, world.size()));
    if (world.size() > 1)
      return measure(world,
                     {{"comm::mpi", [&](std::span<float> data) { comm::all_reduce(world, data); }},
                      {"MPI_Allreduce",
                       [](std::span<float> data) {
                         MPI_Allreduce(MPI_IN_PLACE, data.data(), int(data.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
                       }}},
                     rounds);
    comm::threads::run(2, [&](comm::threads& ranks) {
      stay_on_core(ranks.rank());
      measure(ranks, {{"comm::threads", [&](std::span<float> data) { comm::all_reduce(ranks, data); }}}, rounds);
    });
  });
}
