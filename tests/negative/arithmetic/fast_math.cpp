// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// flags: -ffast-math
// expect: -ffast-math lets the compiler reorder sums, which breaks arithmetic::bitwise\. Fix:
#include <tenon/core/config.hpp>
