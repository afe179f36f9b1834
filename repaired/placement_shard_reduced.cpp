// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_reduce: the value is sharded along the axis.*Fix:
// Different parts of a vector are added to one another.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto gradient(mesh<self>& ranks, placed<std::span<float>, shard<data_axis>> part, std::span<float> whole,
              std::span<std::size_t const> cuts) {
return all_gather<data_axis>(ranks, part, whole, cuts);
}
