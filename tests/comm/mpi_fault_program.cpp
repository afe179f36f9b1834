// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: tenon::mpi
//
// One rank of an MPI world, started by mpi_fault_test.py:   mpi_fault_program FIRST COUNT
// for faults FIRST to FIRST + COUNT that a process outlives, or   mpi_fault_program kill|stop|sleep SEED FILE   for a rank
// that is lost, after which each other rank appends to FILE when it was told and whether it was told the right thing.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <tenon/comm/mpi.hpp>

#include "fault_body.hpp"

using namespace tenon;
using comm::mpi;
using namespace fault_body;

namespace {

// A world of its own for each fault, and what all ranks were told by MPI_COMM_WORLD.
int run_faults(int first, int count) {
  int rank = 0, ranks = 0, bad = 0;
  double longest = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  for (int seed = first; seed < first + count; ++seed) {
    fault const f(std::uint64_t(seed), ranks);
    std::string text;
    std::int64_t begin = 0;
    bool sleeps = false;
    try {
      mpi world(MPI_COMM_WORLD, watching);
      make_calls(world, f, [&] {
        begin = now();
        sleeps = f.what == kind::sleeping;
        if (sleeps) std::this_thread::sleep_for(std::chrono::milliseconds(800));
      });
    } catch (std::exception const& e) {
      text = e.what();
    }
    std::int64_t const end = sleeps ? 0 : now();
    std::string const wrong = judge(f, text);
    std::vector<std::int64_t> ends(static_cast<std::size_t>(ranks)), lengths(static_cast<std::size_t>(ranks));
    auto const length = std::int64_t(wrong.size());
    MPI_Bcast(&begin, 1, MPI_INT64_T, f.rank, MPI_COMM_WORLD);
    MPI_Allgather(&end, 1, MPI_INT64_T, ends.data(), 1, MPI_INT64_T, MPI_COMM_WORLD);
    MPI_Allgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, MPI_COMM_WORLD);
    double const took = seconds(*std::max_element(ends.begin(), ends.end()) - begin);
    bool const fails = took >= 1 || std::any_of(lengths.begin(), lengths.end(), [](auto n) { return n != 0; });
    if (fails)
      std::printf("%s: %s after %.2f s, rank %d was told '%s'\n", describe(f).c_str(), wrong.c_str(), took, rank,
                  text.c_str());
    bad += fails;
    longest = std::max(longest, took);
  }
  if (rank == 0)
    std::printf("%d faults of %d processes, %d not as they must; at most %.3f s\n", count, ranks, bad, longest);
  std::fflush(stdout);
  MPI_Barrier(MPI_COMM_WORLD);  // the launcher ends the others when one has ended
  return bad != 0;
}

void run_lost(mpi& world, std::string const& way, std::uint64_t seed, std::string const& file) {
  fault const f(seed, world.size(), way == "kill" ? kind::killed : kind::sleeping);
  std::string text;
  try {
    make_calls(world, f, [&] {
      std::ofstream(file, std::ios::app) << "begin " << now() << std::endl;
      if (way == "sleep") std::this_thread::sleep_for(std::chrono::minutes(1));
      else std::raise(way == "kill" ? SIGKILL : SIGSTOP);
    });
  } catch (error const& e) {
    text = e.what();
  }
  std::int64_t const end = now();
  std::string wrong = judge(f, text);
  if (way == "stop" && text.find(" is stopped") == std::string::npos) wrong = "not as stopped";
  std::ofstream(file, std::ios::app) << "end " + std::to_string(end) + " " +
                                            (wrong.empty() ? "good" : wrong + ": " + text)
                                     << std::endl;
  throw error(errc::comm_failed, text);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4)
    return comm::run_mpi(argc, argv,
                         [&](mpi& world) { run_lost(world, argv[1], std::strtoull(argv[2], nullptr, 10), argv[3]); });
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  int const code = run_faults(std::atoi(argv[1]), std::atoi(argv[2]));
  std::_Exit(code);  // messages of failed worlds are still under way: MPI_Finalize would wait for them
}
