// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: expert<N> with a model that has no experts.*Fix:
// The ranks would wait for tokens that nobody routes.
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using wrong = trainer<models::gpt2<>, expert<2>, comm::threads>;
// right: using right = trainer<models::gpt2<>, data<2>, comm::threads>;
