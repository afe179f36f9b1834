// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Everything needed to train: models, policies, the trainer, data, checkpoints, sampling.
#include <tenon/data/text.hpp>
#include <tenon/data/token_file.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/checkpoint_files.hpp>
#include <tenon/train/fit.hpp>
#include <tenon/train/plan.hpp>
#include <tenon/train/progress.hpp>
#include <tenon/train/receipt.hpp>
#include <tenon/train/sample.hpp>
#include <tenon/train/stop.hpp>
#include <tenon/train/trainer.hpp>
