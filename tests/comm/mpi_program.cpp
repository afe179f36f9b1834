// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: tenon::mpi
//
// One rank of an MPI world, started by mpi_test.py: all checks of a communicator, or one way to fail.
// A second argument of 1: it never comes to MPI.
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include <tenon/comm.hpp>
#include <tenon/comm/mpi.hpp>

#include "communicator_body.hpp"

using tenon::comm::mpi;

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[2]) == "1") std::this_thread::sleep_for(std::chrono::seconds(60));
  return tenon::comm::run_mpi(argc, argv, [&](mpi& world) {
    std::string const way = argc > 1 ? argv[1] : "all";
    bool const second = world.rank() == 1;
    if (way == "one_throws" && second) throw std::runtime_error("no disk");
    if (way == "all_throw") throw tenon::argument_error("no such option");
    if (way == "throw_differently") throw tenon::argument_error("I am " + std::to_string(world.rank()));
    if (way == "differ") tenon::comm::check_same(world, "policies", second ? "bf16" : "fp32");
    if (way == "missing" && second) std::this_thread::sleep_for(std::chrono::seconds(60));
    if (way == "missing") tenon::comm::wait_for_all(world);
    if (way == "stream_waits") {
      tenon::comm::stream<mpi> s(world);
      if (second) s.enqueue([](mpi& own) { own.barrier(); });
      if (second) throw std::runtime_error("no disk");
      s.wait(s.enqueue([](mpi& own) { own.barrier(), own.barrier(); }));
    }
    if (way == "one_throws" || way == "missing") world.barrier();
    if (way != "all") return;
    communicator_body::check_communicator(world);
    {
      mpi again(MPI_COMM_WORLD);
      communicator_body::check_traffic(again);
      tenon::comm::stream<mpi> s(again);
      std::vector<float> data(100000, 1);
      auto const r = s.enqueue([&](mpi& own) { tenon::comm::all_reduce(own, std::span<float>(data)); });
      again.barrier();
      s.wait(r);
      communicator_body::require(data.back() == float(again.size()), "all_reduce on a stream");
    }
    if (world.rank() == 0) std::printf("%d ranks: all holds\n", world.size());
  });
}
