// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: optimizer::muon with tensor.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::tensor<2>, tenon::optimizer::muon, tenon::comm::threads>());
