// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: a sentence. Fix: another line
static_assert(false, "a sentence. Fix: another line.");
// right: static_assert(false, "another sentence.");
