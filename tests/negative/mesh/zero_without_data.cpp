// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: zero<1\.\.3> with data<1>.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::zero<1>>());
