// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: a type in the list is no policy.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<int>());
