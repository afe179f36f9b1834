// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the memory axis.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::memory::keep, tenon::memory::recompute_full>());
