// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The host's implementation of every operation that a trainer uses.
#include <tenon/ops/host/activation.hpp>
#include <tenon/ops/host/attention.hpp>
#include <tenon/ops/host/cross_entropy.hpp>
#include <tenon/ops/host/dropout.hpp>
#include <tenon/ops/host/elementwise.hpp>
#include <tenon/ops/host/embedding.hpp>
#include <tenon/ops/host/gemm.hpp>
#include <tenon/ops/host/grad_norm.hpp>
#include <tenon/ops/host/moe.hpp>
#include <tenon/ops/host/norm.hpp>
#include <tenon/ops/host/rope.hpp>
#include <tenon/ops/host/sample.hpp>
#include <tenon/ops/host/update.hpp>
