// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: zero<0, hybrid<M>>.*Fix:
// Stage 0 keeps everything on every rank.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<data<4>, zero<0, hybrid<2>>, comm::threads>());
// right: static_assert(check_policies<data<4>, zero<3, hybrid<2>>, comm::threads>());
