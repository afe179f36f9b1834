// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention on the host, both directions.
#include <tenon/ops/host/attention_backward.hpp>
#include <tenon/ops/host/attention_forward.hpp>
