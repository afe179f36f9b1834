// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::add: one value is partial and the other is not.*Fix:
// The residual stream, which all tensor ranks have, is added into each rank's summand.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void block(mesh<self>& ranks, placed<std::span<float>> stream, placed<std::span<float>, partial<tensor_axis>> y) {
  add(stream, y);
  // right: add(stream, all_reduce<tensor_axis>(ranks, y));
}
