// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_gather: the value is sharded or partial along other axes.*Fix:
// Parts of the vocabulary, which tensor ranks hold, are gathered over the data ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

auto logits(mesh<self>& ranks, placed<std::span<float>, shard<tensor_axis>> part, std::span<float> whole,
            std::span<std::size_t const> cuts) {
  return all_gather<data_axis>(ranks, part, whole, cuts);
  // right: return all_gather<tensor_axis>(ranks, part, whole, cuts);
}
