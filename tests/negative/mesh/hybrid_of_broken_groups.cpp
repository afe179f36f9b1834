// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: hybrid<M> with an M that does not divide.*Fix:
// Six replicas do not make up groups of four.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<data<6>, zero<3, hybrid<4>>, comm::threads>());
// right: static_assert(check_policies<data<6>, zero<3, hybrid<3>>, comm::threads>());
