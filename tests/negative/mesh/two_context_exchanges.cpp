// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the context axis.*Fix:
// Keys travel around a ring, or are traded for heads.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<context<2, ring>, context<2, all_to_all>, comm::threads>());
// right: static_assert(check_policies<context<2, all_to_all>, comm::threads>());
