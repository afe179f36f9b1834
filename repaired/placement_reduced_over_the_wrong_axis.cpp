// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_reduce: the value is partial or sharded along other axes.*Fix:
// A row-parallel product is summed over the data ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto sum(mesh<self>& ranks, placed<std::span<float>, partial<tensor_axis>> y) {
return all_reduce<tensor_axis>(ranks, y);
}
