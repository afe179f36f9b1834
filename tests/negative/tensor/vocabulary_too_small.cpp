// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the model cannot be cut over so many tensor ranks.*Fix:
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using model =
    tenon::models::gpt2<tenon::gpt2_config{.layers = 1, .width = 128, .heads = 8, .context = 8, .vocabulary = 64}>;
using trainer = tenon::trainer<model, tenon::tensor<8>, tenon::comm::threads>;  // four leaves of 16 tokens
