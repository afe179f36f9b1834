// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::mean: the sum is not whole.*Fix:
// Each rank reports the mean of its own tokens, over the count of all.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double report(mesh<self>& ranks, placed<exact_sum, partial<data_axis>> loss, placed<index_t> tokens) {
  return mean(loss, tokens).value();
  // right: return mean(all_reduce<data_axis>(ranks, loss), tokens).value();
}
