// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::placed: two placements on one axis.*Fix:
// A gradient cannot be summands and parts along the same ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

std::size_t size_of(placed<std::span<float>, shard<tensor_axis>> right) {
placed<std::span<float>, shard<data_axis>, partial<tensor_axis>> wrong;
  return wrong.local().size() + right.local().size();
}
