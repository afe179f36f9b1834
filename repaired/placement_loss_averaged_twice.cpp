// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::mean: a mean is divided by a count again.*Fix:
// The mean over tokens is divided by the number of micro-batches, too.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double report(placed<exact_sum> loss, placed<index_t> tokens, placed<index_t> micro_batches) {
  mean const of_tokens(loss, tokens);
return of_tokens.value();
}
