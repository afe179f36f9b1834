// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::placed::whole: the value is sharded.*Fix:
// A file gets this rank's part of a parameter in place of the parameter.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto to_save(mesh<self>& ranks, placed<std::span<float>, shard<tensor_axis>> weight, std::span<float> whole,
             std::span<std::size_t const> cuts) {
return all_gather<tensor_axis>(ranks, weight, whole, cuts).whole();
}
