// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the zero axis.*Fix:
// Which of the stages holds?
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<data<2>, zero<1>, zero<3>, comm::threads>());
// right: static_assert(check_policies<data<2>, zero<3>, comm::threads>());
