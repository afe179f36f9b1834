// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::policies: sequence_parallel with tensor<1>.*Fix:
#include <tenon/policy/set.hpp>
static_assert(tenon::check_policies<tenon::sequence_parallel>());
