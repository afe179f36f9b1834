// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Texts and token files, and which samples a step takes.
#include <tenon/data/sampler.hpp>
#include <tenon/data/source.hpp>
#include <tenon/data/text.hpp>
#include <tenon/data/token_file.hpp>
