// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a trainer is told, and what it tells of a step: the same for all lines of types.
/// @test tests/train/trainer_test.cpp
#include <cstdint>
#include <string>

#include <tenon/comm/mesh.hpp>
#include <tenon/core/view.hpp>
#include <tenon/optim/optimizer.hpp>
#include <tenon/optim/schedule.hpp>

namespace tenon {

/// Numbers of a run. What changes types (model, precision, strategy) is not here.
struct train_options {
  index_t batch = 8;            ///< sequences per step, over all micro-batches
  index_t accumulate = 1;       ///< micro-batches per step; the same bits for every number that divides the batch
  index_t sequence_length = 0;  ///< tokens per sequence; 0: the model's context
  float learning_rate = 6e-4f;  ///< the peak
  optim::schedule schedule{};
  optim::optimizer_options optimizer{};
  float clip = 1.0f;  ///< largest gradient norm; 0: no clipping
  std::uint64_t seed = 1;
  int threads = 0;  ///< of each rank; 0: the processors, shared among the ranks of this process; no bit depends on it
  std::string
      offload_folder{};     ///< for memory::offload<file_backed>, on a disk; empty: the system's for temporary files
  comm::mesh_shape mesh{};  ///< degrees of the axes that are `dynamic` in the line of types
};

/// What one step did.
struct step_result {
  index_t step = 0;           ///< 1-based
  double loss = 0;            ///< mean over all targets of the step, in nats
  double auxiliary_loss = 0;  ///< mean over sequences of what balances experts; its gradient is in the step's, too
  double grad_norm = 0;       ///< before clipping
  float learning_rate = 0;
  index_t targets = 0;
  bool skipped = false;  ///< fp16 only: a gradient overflowed, no parameter was changed
};

}  // namespace tenon
