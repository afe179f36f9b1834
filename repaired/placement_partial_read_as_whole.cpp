// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::placed::whole: the value is partial.*Fix:
// A rank prints the loss of its own samples as that of the step.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double to_print(mesh<self>& ranks, placed<exact_sum, partial<world_axis>> loss) {
return all_reduce<world_axis>(ranks, loss).whole().value();
}
