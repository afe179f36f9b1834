// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: tensor with arithmetic::fast.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::tensor<2>, tenon::arithmetic::fast, tenon::comm::threads>());
