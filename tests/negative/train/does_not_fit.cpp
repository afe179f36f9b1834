// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::fits: a rank of this trainer needs more memory than it is given.*Fix:
// expect: needs_MiB<2197
// expect: has_MiB<2048
#include <tenon/models/gpt2.hpp>
#include <tenon/train/plan.hpp>
using namespace tenon::literals;
using trainer = tenon::trainer<tenon::models::gpt2_124m>;
static_assert(tenon::fits<trainer, 2_GiB>());
// right: static_assert(tenon::fits<trainer, 3_GiB>());
