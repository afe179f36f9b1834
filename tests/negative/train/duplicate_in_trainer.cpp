// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the precision axis.*Fix:
#include <tenon/models/gpt2.hpp>
#include <tenon/train/trainer.hpp>
using trainer = tenon::trainer<tenon::models::gpt2_124m, tenon::precision::fp32, tenon::precision::bf16_mixed>;
