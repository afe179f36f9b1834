// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::norm: the sum of squares is that of one rank's part.*Fix:
// Every rank reports, and clips by, the norm of its own part of the gradient.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double gradient_norm(mesh<self>& ranks, placed<std::span<float const>, shard<world_axis>> gradient) {
  auto const squares = sum_of_squares(gradient);
  return norm(squares);
  // right: return norm(all_reduce<world_axis>(ranks, squares));
}
