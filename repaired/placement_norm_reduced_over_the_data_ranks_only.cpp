// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::norm: the sum of squares is that of one rank's part.*Fix:
// Under tensor parallelism the squares are added over the data ranks and forgotten along the tensor ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double gradient_norm(mesh<self>& ranks,
                     placed<std::span<float const>, shard<replicas_axis>, shard<tensor_axis>> gradient) {
  auto const squares = all_reduce<replicas_axis>(ranks, sum_of_squares(gradient));
return norm(all_reduce<tensor_axis>(ranks, squares));
}
