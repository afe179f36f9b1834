// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Pipeline schedules.
#include <tenon/parallel/schedule.hpp>
