// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: context<N, all_gather> with more than 4 ranks.*Fix:
// Eight leaves of a sequence are two each for four ranks.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<context<8, all_gather>, comm::threads>());
// right: static_assert(check_policies<context<4, all_gather>, comm::threads>());
