// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::parallel: the number of micro-batches does not fit the schedule.*Fix:
#include <tenon/parallel/schedule.hpp>
using namespace tenon::parallel;
static_assert(check_schedule<tenon::interleaved<2>, 4, 6>());
