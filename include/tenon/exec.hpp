// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Where code runs: the thread pool, SIMD lanes, elementary functions, parallel primitives.
#include <tenon/exec/host/context.hpp>
#include <tenon/exec/host/math.hpp>
#include <tenon/exec/host/parallel.hpp>
#include <tenon/exec/host/peak.hpp>
#include <tenon/exec/host/simd.hpp>
#include <tenon/exec/host/simd_bytes.hpp>
#include <tenon/exec/host/thread_pool.hpp>
