// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: precision::fp8_hybrid on device::host.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::precision::fp8_hybrid, tenon::arithmetic::fast>());
