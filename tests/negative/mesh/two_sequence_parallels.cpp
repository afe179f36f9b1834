// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the sequence axis.*Fix:
// It is on or off.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<tensor<2>, sequence_parallel, sequence_parallel, comm::threads>());
// right: static_assert(check_policies<tensor<2>, sequence_parallel, comm::threads>());
