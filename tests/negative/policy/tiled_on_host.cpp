// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: layout::tiled on device::host.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::layout::tiled<16, 16>>());
