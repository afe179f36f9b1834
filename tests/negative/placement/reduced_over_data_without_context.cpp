// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_reduce: the value is partial or sharded along other axes.*Fix:
// Ranks with other parts of the same sequences are left out of the sum of gradients.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto sum(mesh<self>& ranks, placed<std::span<float>, partial<replicas_axis>> gradient) {
  return all_reduce<data_axis>(ranks, gradient);
  // right: return all_reduce<replicas_axis>(ranks, gradient);
}
