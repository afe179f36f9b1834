// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::placed: what follows the type is no placement.*Fix:
// A policy says how many ranks there are, not what of a value they have.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
#include <tenon/policy/parallel.hpp>
using namespace tenon;
using namespace tenon::comm;

std::size_t size_of() {
placed<std::span<float>, shard<data_axis>> wrong;
  return wrong.local().size();
}
