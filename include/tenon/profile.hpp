// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranges, traces and the table of where time goes.
#include <tenon/profile/chrome_trace.hpp>
#include <tenon/profile/overlap.hpp>
#include <tenon/profile/recorder.hpp>
#include <tenon/profile/table.hpp>
