// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::add: a sum of means.*Fix:
// Micro-batches with few tokens weigh as much as those with many.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void accumulate(placed<exact_sum>& total, placed<mean>& means, placed<exact_sum> loss, placed<index_t> tokens) {
  add(means, placed<mean>(mean(loss, tokens)));
  // right: add(total, loss);
}
