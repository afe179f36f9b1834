// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_reduce: a sum of means.*Fix:
// The means of ranks are averaged, although ranks have different numbers of tokens.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double report(mesh<self>& ranks, placed<mean, partial<data_axis>> mine, placed<exact_sum, partial<data_axis>> loss,
              placed<index_t, partial<data_axis>> tokens) {
  return all_reduce<data_axis>(ranks, mine).whole().value();
  // right: return mean(all_reduce<data_axis>(ranks, loss), all_reduce<data_axis>(ranks, tokens)).value();
}
