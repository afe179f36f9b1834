// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: tensor<N> with an N that is not 1, 2, 4 or 8.*Fix:
// Sums have at most eight leaves.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<tensor<16>, comm::mpi>());
// right: static_assert(check_policies<tensor<8>, data<2>, comm::mpi>());
