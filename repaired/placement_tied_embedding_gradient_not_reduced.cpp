// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::reduced: the gradient is partial.*Fix:
// The table that is embedding in the first stage and head in the last is updated by the gradient of one of them.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

float const* gradient_of_table(mesh<self>& ranks, placed<std::span<float>, partial<pipeline_axis>> gradient) {
return reduced(all_reduce<pipeline_axis>(ranks, gradient)).data();
}
