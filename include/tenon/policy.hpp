// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The axes along which a trainer or an engine is composed: types only.
#include <tenon/policy/arithmetic.hpp>
#include <tenon/policy/axis.hpp>
#include <tenon/policy/batching.hpp>
#include <tenon/policy/communicator.hpp>
#include <tenon/policy/device.hpp>
#include <tenon/policy/layout.hpp>
#include <tenon/policy/memory.hpp>
#include <tenon/policy/optimizer.hpp>
#include <tenon/policy/parallel.hpp>
#include <tenon/policy/precision.hpp>
#include <tenon/policy/set.hpp>
