// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: device::cuda and device::hip are known as types only.*Fix:
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using trainer = tenon::trainer<tenon::models::gpt2_124m, tenon::device::cuda>;
