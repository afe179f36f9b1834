// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
static_assert(false, "no line above says what to expect");
