// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the KV heads do not come out even on the tensor ranks.*Fix:
// GPT-2's twelve heads over eight ranks.
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using wrong = trainer<models::gpt2_124m, tensor<8>, comm::threads>;
// right: using right = trainer<models::gpt2_124m, tensor<4>, comm::threads>;
