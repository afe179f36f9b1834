// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: the model's shape does not fit together.*Fix:
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using trainer =
    tenon::trainer<tenon::models::gpt2<tenon::gpt2_config{.layers = 1, .width = 10, .heads = 3, .context = 8}>>;
