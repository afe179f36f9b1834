// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_parts train_gpt_kernels train_gpt_mpi_lines tenon::mpi
// train_gpt on a mesh of MPI processes:   mpirun -np 4 train_gpt_mpi --mesh data=4
#include <tenon/comm/mpi.hpp>

#include "train_gpt/lines.hpp"
#include "train_gpt/report.hpp"

int main(int argc, char** argv) {
  return tenon::comm::run_mpi(argc, argv, [&](tenon::comm::mpi& world) {
    auto const a = train_gpt::read_command_line(
        argc, argv, "Trains a GPT on a mesh of MPI processes. Results do not depend on the mesh.",
        tenon::comm::mesh_shape{.data = world.size()}, world.rank() == 0);
    if (!a) return 0;
    return train_gpt::finish(*a, train_gpt::train(world, *a), world.rank() == 0);
  });
}
