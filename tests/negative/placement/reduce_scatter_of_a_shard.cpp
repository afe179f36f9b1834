// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::reduce_scatter: the value is sharded along the axis.*Fix:
// What has been scattered is scattered again.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto part(mesh<self>& ranks, placed<std::span<float>, partial<data_axis>> mine, std::span<float> own,
          std::span<std::size_t const> cuts) {
  auto const once = reduce_scatter<data_axis>(ranks, mine, own, cuts);
  return reduce_scatter<data_axis>(ranks, once, own, cuts);
  // right: return once;
}
