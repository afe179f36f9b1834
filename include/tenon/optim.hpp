// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Update rules, schedules, loss scaling.
#include <tenon/optim/loss_scale.hpp>
#include <tenon/optim/optimizer.hpp>
#include <tenon/optim/schedule.hpp>
