// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the experts do not come out even on the expert ranks.*Fix:
// Eight experts over three ranks.
#include <tenon/comm/threads.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using model = models::mixtral<mixtral_config{.layers = 2, .width = 128, .heads = 8, .context = 64, .experts = 8}>;
using wrong = trainer<model, expert<3>, comm::threads>;
// right: using right = trainer<model, expert<4>, comm::threads>;
