// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the expert axis.*Fix:
// Experts are shared out once.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<expert<2>, expert<4>, comm::threads>());
// right: static_assert(check_policies<expert<4>, comm::threads>());
