// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/policy/axis.hpp>

namespace tenon::comm {
/// One rank, no communication. The default.
struct self {
  using axis = communicator_axis;
};
/// Ranks are threads of this process. The type is here; its machinery comes with the parallel release, as that of the
/// two below.
struct threads {
  using axis = communicator_axis;
};
/// Ranks are MPI processes.
struct mpi {
  using axis = communicator_axis;
};
/// Ranks are devices that talk through NCCL.
struct nccl {
  using axis = communicator_axis;
};
static_assert(PolicyOn<self, communicator_axis> && PolicyOn<nccl, communicator_axis>);
}  // namespace tenon::comm
