// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::trainer: memory::offload is known as a type only.*Fix:
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using trainer = tenon::trainer<tenon::models::gpt2_124m, tenon::memory::offload<tenon::memory::host_memory>>;
