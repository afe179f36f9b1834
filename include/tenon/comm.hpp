// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How ranks talk. `comm/mpi.hpp` and `comm/nccl.hpp` need their libraries and are included by name.
#include <tenon/comm/check.hpp>
#include <tenon/comm/communicator.hpp>
#include <tenon/comm/mesh.hpp>
#include <tenon/comm/placement.hpp>
#include <tenon/comm/reduce.hpp>
#include <tenon/comm/self.hpp>
#include <tenon/comm/site.hpp>
#include <tenon/comm/stream.hpp>
#include <tenon/comm/threads.hpp>
#include <tenon/comm/trace.hpp>
#include <tenon/comm/watch.hpp>
