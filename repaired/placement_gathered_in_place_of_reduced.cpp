// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_gather: the value is partial along the axis.*Fix:
// Summands are put side by side.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto output(mesh<self>& ranks, placed<std::span<float>, partial<tensor_axis>> y, std::span<float> whole,
            std::span<std::size_t const> cuts) {
return all_reduce<tensor_axis>(ranks, y);
}
