// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Element types, views and tensors, arenas, random numbers, the order of every sum.
#include <tenon/core/arena.hpp>
#include <tenon/core/bit_sum.hpp>
#include <tenon/core/config.hpp>
#include <tenon/core/element.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/file_block.hpp>
#include <tenon/core/json_text.hpp>
#include <tenon/core/parameter.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/core/tensor.hpp>
#include <tenon/core/view.hpp>
#include <tenon/core/weight_format.hpp>
