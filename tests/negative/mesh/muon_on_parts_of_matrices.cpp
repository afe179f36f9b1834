// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: optimizer::muon with tensor;.*Fix:
// The orthogonalized parts of a matrix are not parts of the orthogonalized matrix.
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<tensor<2>, optimizer::muon, comm::threads>());
// right: static_assert(check_policies<data<2>, zero<1>, optimizer::muon, comm::threads>());
