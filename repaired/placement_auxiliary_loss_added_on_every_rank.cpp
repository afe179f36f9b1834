// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::add: one value is partial and the other is not.*Fix:
// A router's loss that has been reduced is added to a loss that has not.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void add_auxiliary(mesh<self>& ranks, placed<exact_sum, partial<world_axis>> loss,
                   placed<exact_sum, partial<world_axis>> auxiliary) {
  auto const reduced = all_reduce<world_axis>(ranks, auxiliary);
auto whole = all_reduce<world_axis>(ranks, loss); add(whole, reduced);
}
