// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: comm::threads, comm::mpi and comm::nccl are known as types only.*Fix:
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using trainer = tenon::trainer<tenon::models::gpt2_124m, tenon::comm::mpi>;
