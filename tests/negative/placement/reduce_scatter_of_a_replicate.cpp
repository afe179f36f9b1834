// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::reduce_scatter: the value is replicated.*Fix:
// Each rank receives its part N times.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto part(mesh<self>& ranks, placed<std::span<float>> gradient, placed<std::span<float>, partial<data_axis>> mine,
          std::span<float> own, std::span<std::size_t const> cuts) {
  return reduce_scatter<data_axis>(ranks, gradient, own, cuts);
  // right: return reduce_scatter<data_axis>(ranks, mine, own, cuts);
}
