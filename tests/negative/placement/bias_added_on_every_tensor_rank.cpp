// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::add: one value is partial and the other is not.*Fix:
// A row-parallel layer adds its bias before the sum over tensor ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void row_parallel(mesh<self>& ranks, placed<std::span<float>, partial<tensor_axis>> y, placed<std::span<float>> bias) {
  add(y, bias);
  // right: auto sum = all_reduce<tensor_axis>(ranks, y); add(sum, bias);
}
