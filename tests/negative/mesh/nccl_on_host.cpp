// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: comm::nccl without device::cuda.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::comm::nccl>());
