// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::add: the values are placed along different axes.*Fix:
// Parts of a vector cut over data ranks are added to parts cut over tensor ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void accumulate(placed<std::span<float>, shard<data_axis>> a, placed<std::span<float>, shard<data_axis>> same,
                placed<std::span<float>, shard<tensor_axis>> b) {
  add(a, b);
  // right: add(a, same);
}
