// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: two policies on the pipeline axis.*Fix:
// A pipeline runs one program.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<pipeline<2, gpipe>, pipeline<2, zero_bubble>, comm::threads>());
// right: static_assert(check_policies<pipeline<2, zero_bubble>, comm::threads>());
