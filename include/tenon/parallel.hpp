// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How a model is shared out among ranks.
#include <tenon/parallel/gradient_tree.hpp>
#include <tenon/parallel/model_state.hpp>
#include <tenon/parallel/sharding.hpp>
