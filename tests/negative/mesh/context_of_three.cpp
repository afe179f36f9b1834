// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: context<N> with an N that is not 1, 2, 4 or 8.*Fix:
// A third of a sequence is no node of the tree over its tokens.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<context<3>, comm::threads>());
// right: static_assert(check_policies<context<4>, comm::threads>());
