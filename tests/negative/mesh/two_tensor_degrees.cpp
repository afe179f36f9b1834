// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the tensor axis.*Fix:
// Are these two ranks or eight?
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<tensor<2>, tensor<4>, comm::threads>());
// right: static_assert(check_policies<tensor<4>, comm::threads>());
