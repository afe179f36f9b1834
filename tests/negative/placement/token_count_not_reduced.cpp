// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::mean: the count is not whole.*Fix:
// The loss of all ranks is divided by the tokens of one.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double report(mesh<self>& ranks, placed<exact_sum> loss, placed<index_t, partial<data_axis>> tokens) {
  return mean(loss, tokens).value();
  // right: return mean(loss, all_reduce<data_axis>(ranks, tokens)).value();
}
