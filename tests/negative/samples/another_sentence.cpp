// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: the sentence of another rule
static_assert(false, "the sentence of this rule");
