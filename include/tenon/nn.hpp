// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Blocks with both directions, and the combinators that make models of them.
#include <tenon/nn/attention.hpp>
#include <tenon/nn/combinators.hpp>
#include <tenon/nn/context_attention.hpp>
#include <tenon/nn/embedding.hpp>
#include <tenon/nn/encoder.hpp>
#include <tenon/nn/expert_exchange.hpp>
#include <tenon/nn/linear.hpp>
#include <tenon/nn/mlp.hpp>
#include <tenon/nn/moe.hpp>
#include <tenon/nn/norm.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/nn/shape.hpp>
#include <tenon/nn/stored.hpp>
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/nn/transformer.hpp>
