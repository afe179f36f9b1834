// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: the mesh has more than one rank but comm::self has one.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::data<2>>());
