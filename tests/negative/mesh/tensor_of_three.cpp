// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: tensor<N> with an N that is not 1, 2, 4 or 8.*Fix:
// Three ranks cannot share a power of two of leaves: the sums would depend on the mesh.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<tensor<3>, comm::threads>());
// right: static_assert(check_policies<tensor<2>, data<3>, comm::threads>());
