// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::placed: two placements on one axis.*Fix:
// The data ranks are among the replicas: reduced over both, a gradient would be summed twice along data.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

std::size_t size_of() {
  placed<std::span<float>, partial<replicas_axis>, partial<data_axis>> wrong;
  // right: placed<std::span<float>, partial<replicas_axis>, partial<tensor_axis>> wrong;
  return wrong.local().size();
}
