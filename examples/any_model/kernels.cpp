// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "kernels.hpp"

namespace tenon {
#define TENON_KERNEL(op, ...) template void ops::run_kernel<ops::op##_t>(exec::host_context&, ops::__VA_ARGS__ const&);
TENON_KERNELS
}  // namespace tenon
