// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the device axis.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::device::host, tenon::device::host>());
