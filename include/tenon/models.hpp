// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Families of models as compositions of blocks.
#include <tenon/models/bert.hpp>
#include <tenon/models/check.hpp>
#include <tenon/models/gemma.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/models/names.hpp>
