// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file All that needs nothing but C++20 and threads. For files, data and the trainer: <tenon/train.hpp>.
#include <tenon/core.hpp>
#include <tenon/exec.hpp>
#include <tenon/models.hpp>
#include <tenon/nn.hpp>
#include <tenon/ops.hpp>
#include <tenon/optim.hpp>
#include <tenon/parallel.hpp>
#include <tenon/policy.hpp>
#include <tenon/profile.hpp>
