// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
static_assert(false, "broken");
