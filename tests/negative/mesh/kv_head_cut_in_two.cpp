// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the KV heads do not come out even on the tensor ranks.*Fix:
// With grouped queries there are fewer KV heads than heads.
#include <tenon/comm/threads.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using model = models::llama<llama_config{.layers = 2, .width = 512, .heads = 8, .kv_heads = 2, .context = 64}>;
using wrong = trainer<model, tensor<4>, comm::threads>;
// right: using right = trainer<model, tensor<2>, comm::threads>;
