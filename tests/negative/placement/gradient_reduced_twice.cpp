// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_reduce: the value is replicated.*Fix:
// Gradients are reduced behind backward and once more in the step: N times too large.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto gradient(mesh<self>& ranks, placed<std::span<float>, partial<data_axis>> mine) {
  auto const sum = all_reduce<data_axis>(ranks, mine);
  return all_reduce<data_axis>(ranks, sum);
  // right: return sum;
}
