// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_parts train_gpt_kernels train_gpt_threads_lines
// train_gpt on a mesh of ranks that are threads of this process:   train_gpt_threads --mesh data=2
#include <cstdio>
#include <exception>

#include <tenon/comm/threads.hpp>

#include "train_gpt/lines.hpp"
#include "train_gpt/report.hpp"

int main(int argc, char** argv) try {
  using tenon::comm::threads;
  auto const a = train_gpt::read_command_line(
      argc, argv, "Trains a GPT on a mesh of ranks, which are threads. Results do not depend on the mesh.",
      tenon::comm::mesh_shape{.data = 2});
  if (!a) return 0;
  int code = 0;
  threads::run(int(a->mesh.size()), [&](threads& world) {
    auto const summary = train_gpt::train(world, *a);
    if (world.rank() == 0) code = train_gpt::finish(*a, summary);
  });
  return code;
} catch (std::exception const& e) {
  std::fprintf(stderr, "train_gpt_threads: %s\n", e.what());
  return 1;
}
