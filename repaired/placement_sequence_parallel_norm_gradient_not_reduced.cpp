// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::reduced: the gradient is partial.*Fix:
// With sequence parallelism each tensor rank has the gradient of a norm from its own tokens only.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

float const* gradient_of_norm(mesh<self>& ranks,
                              placed<std::span<float>, shard<replicas_axis>, partial<tensor_axis>> gradient) {
return reduced(all_reduce<tensor_axis>(ranks, gradient)).data();
}
