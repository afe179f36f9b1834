// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_reduce: a sum of this type would depend on the number of ranks.*Fix:
// The loss changes with the mesh, because a rounded sum has an order.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double report(mesh<self>& ranks, placed<double, partial<data_axis>> rounded,
              placed<exact_sum, partial<data_axis>> loss) {
  return all_reduce<data_axis>(ranks, rounded).whole();
  // right: return all_reduce<data_axis>(ranks, loss).whole().value();
}
