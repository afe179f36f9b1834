// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: tensor with arithmetic::fast.*Fix:
// Without leaves there is nothing that a rank could take whole.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<tensor<2>, arithmetic::fast, comm::threads>());
// right: static_assert(check_policies<tensor<2>, arithmetic::bitwise, comm::threads>());
