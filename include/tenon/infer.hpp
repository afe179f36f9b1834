// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Everything needed to run a model.
#include <tenon/infer/scheduler.hpp>
