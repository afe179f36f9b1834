// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the KV heads do not come out even on the tensor ranks.*Fix:
// A rank with eight features has half of what a norm is summed in.
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using model = models::gpt2<gpt2_config{.layers = 1, .width = 64, .heads = 8, .context = 64}>;
using wrong = trainer<model, tensor<8>, comm::threads>;
// right: using right = trainer<model, tensor<4>, comm::threads>;
