// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the KV heads of a tensor rank do not come out even on the context ranks.*Fix:
// Each of two tensor ranks has one KV head, and all_to_all wants to hand out two.
#include <tenon/comm/threads.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using model = models::llama<llama_config{.layers = 2, .width = 512, .heads = 8, .kv_heads = 2, .context = 512}>;
using wrong = trainer<model, tensor<2>, context<2, all_to_all>, comm::threads>;
// right: using right = trainer<model, tensor<2>, context<2, ring>, comm::threads>;
