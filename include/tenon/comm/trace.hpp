// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What all ranks recorded, as files.   @test tests/parallel/overlap_test.cpp
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <tenon/comm/communicator.hpp>
#include <tenon/profile/chrome_trace.hpp>

namespace tenon::comm {

/// Writes the trace of every rank: of threads of one process into `file`, of processes each into a file of its own,
/// "name.rank3.json" for "name.json". All ranks call it; nothing may be recorded meanwhile.
/// @error file_error(io_failed)
template <Communicator C>
void write_trace(C& world, std::filesystem::path const& file, profile::rank_recorder const& mine) {
  using recorders = std::vector<profile::rank_recorder const*>;
  if constexpr (requires { C::one_process; }) {
    recorders all(std::size_t(world.size()));
    std::vector<std::size_t> cuts;
    for (std::size_t r = 0; r <= all.size(); ++r) cuts.push_back(r * sizeof(all[0]));
    all[std::size_t(world.rank())] = &mine;
    world.all_gather(std::as_writable_bytes(std::span(all)), cuts);
    if (world.rank() == 0) profile::write_chrome_trace(file, all);
    world.barrier();
  } else {
    std::filesystem::path own = file;
    if (world.size() > 1) own.replace_extension(".rank" + std::to_string(world.rank()) + file.extension().string());
    profile::write_chrome_trace(own, recorders{&mine});
  }
}

}  // namespace tenon::comm
