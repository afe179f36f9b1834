// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the hidden features or the vocabulary have fewer leaves.*Fix:
// Some ranks would have no token.
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using model = models::gpt2<gpt2_config{.layers = 1, .width = 128, .heads = 8, .context = 64, .vocabulary = 60}>;
using wrong = trainer<model, tensor<8>, comm::threads>;
// right: using right = trainer<model, tensor<4>, comm::threads>;
