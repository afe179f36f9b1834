// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Every numerical operation, with its host implementation.
#include <tenon/ops/activation.hpp>
#include <tenon/ops/attention.hpp>
#include <tenon/ops/cross_entropy.hpp>
#include <tenon/ops/dropout.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/embedding.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/grad_norm.hpp>
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
#include <tenon/ops/host/update.hpp>
#include <tenon/ops/moe.hpp>
#include <tenon/ops/norm.hpp>
#include <tenon/ops/operation.hpp>
#include <tenon/ops/rope.hpp>
#include <tenon/ops/update.hpp>
