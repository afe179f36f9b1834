// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::sum_of_squares: the value is partial.*Fix:
// The norm of a gradient is taken before it is summed over the replicas.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto squares_of(mesh<self>& ranks, placed<std::span<float>, partial<replicas_axis>> gradient) {
  return sum_of_squares(gradient);
  // right: return sum_of_squares(all_reduce<replicas_axis>(ranks, gradient));
}
