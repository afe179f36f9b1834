// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How a model is shared out among ranks: shards, gradients over replicas, pipeline schedules.
#include <tenon/parallel/footprint.hpp>
#include <tenon/parallel/gradient_tree.hpp>
#include <tenon/parallel/hardware.hpp>
#include <tenon/parallel/mesh_search.hpp>
#include <tenon/parallel/model_state.hpp>
#include <tenon/parallel/receipt.hpp>
#include <tenon/parallel/schedule.hpp>
#include <tenon/parallel/sharding.hpp>
#include <tenon/parallel/step_time.hpp>
