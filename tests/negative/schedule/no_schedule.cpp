// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::parallel: the type is no pipeline schedule.*Fix:
#include <tenon/parallel/schedule.hpp>
using namespace tenon::parallel;
static_assert(check_schedule<int, 2, 4>());
