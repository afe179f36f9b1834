// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: interleaved<V> with pipeline<1>.*Fix:
// The schedule is asked for and the ranks are forgotten.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<pipeline<1, interleaved<2>>, data<2>, comm::threads>());
// right: static_assert(check_policies<pipeline<2, interleaved<2>>, data<2>, comm::threads>());
