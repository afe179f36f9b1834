// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: context<N> with a mixture of experts.*Fix:
// How many tokens an expert takes is counted over whole sequences.
#include <tenon/comm/threads.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using wrong = trainer<models::mixtral<>, context<2>, comm::threads>;
// right: using right = trainer<models::mixtral<>, expert<2>, comm::threads>;
