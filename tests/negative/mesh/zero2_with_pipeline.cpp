// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: zero<2> or zero<3> with pipeline.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::data<2>, tenon::zero<2>, tenon::pipeline<2>, tenon::comm::mpi>());
