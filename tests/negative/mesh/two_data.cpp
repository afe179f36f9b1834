// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the data axis.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::data<2>, tenon::data<2>, tenon::comm::mpi>());
