// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Everything needed to run a model.
#include <tenon/infer/scheduler.hpp>
#include <tenon/infer/seen_tokens.hpp>
#include <tenon/infer/speculation.hpp>
#include <tenon/infer/stop.hpp>
