// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How ranks talk, as policies. Each name is also the class of the communicator itself, defined in comm/: a line of
/// types needs the name alone.
#include <tenon/policy/axis.hpp>

namespace tenon {
namespace comm {
/// One rank, no communication. The default.
class self;
/// Ranks are threads of this process.
class threads;
/// Ranks are MPI processes.
class mpi;
/// Ranks are devices that talk through NCCL.
class nccl;
}  // namespace comm

template <>
struct axis_of<comm::self> : std::type_identity<communicator_axis> {};
template <>
struct axis_of<comm::threads> : std::type_identity<communicator_axis> {};
template <>
struct axis_of<comm::mpi> : std::type_identity<communicator_axis> {};
template <>
struct axis_of<comm::nccl> : std::type_identity<communicator_axis> {};
static_assert(PolicyOn<comm::self, communicator_axis> && PolicyOn<comm::nccl, communicator_axis>);
}  // namespace tenon
