// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::reduce_scatter: the value is partial or sharded along other axes.*Fix:
// Summands of the tensor ranks are scattered over the context ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto part(mesh<self>& ranks, placed<std::span<float>, partial<tensor_axis>> y, std::span<float> own,
          std::span<std::size_t const> cuts) {
return reduce_scatter<tensor_axis>(ranks, y, own, cuts);
}
