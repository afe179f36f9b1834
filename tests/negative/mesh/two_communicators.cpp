// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the communicator axis.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::comm::self, tenon::comm::mpi>());
