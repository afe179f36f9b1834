// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the model has fewer layers than the pipeline has stages.*Fix:
// Known at run time only elsewhere, after the job has waited for its nodes.
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
using model = models::gpt2<gpt2_config{.layers = 3, .width = 128, .heads = 8, .context = 64}>;
using wrong = trainer<model, pipeline<4>, comm::threads>;
// right: using right = trainer<model, pipeline<3>, comm::threads>;
