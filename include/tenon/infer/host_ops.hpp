// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The host's implementation of every operation that an engine uses.
#include <tenon/ops/host/activation.hpp>
#include <tenon/ops/host/elementwise.hpp>
#include <tenon/ops/host/linear.hpp>
#include <tenon/ops/host/moe.hpp>
#include <tenon/ops/host/norm.hpp>
#include <tenon/ops/host/paged_attention.hpp>
#include <tenon/ops/host/rope.hpp>
#include <tenon/ops/host/sample.hpp>
