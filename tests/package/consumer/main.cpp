// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdio>

#include <tenon/core/element.hpp>
#include <tenon/exec/host/thread_pool.hpp>

int main() {
  static_assert(sizeof(tenon::bf16) == 2);
  std::puts("the tenon fits");
}
