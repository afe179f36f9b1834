// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: memory::offload<host_memory> on device::host.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::memory::offload<tenon::memory::host_memory>>());
