// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: this release trains on one rank.*Fix:
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using trainer = tenon::trainer<tenon::models::gpt2_124m, tenon::data<2>, tenon::comm::threads>;
