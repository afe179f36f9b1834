// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <type_traits>

#include <tenon/exec/host/context.hpp>

using namespace tenon;

TEST_CASE("host_context: threads, scratch memory and no profiler unless one is set") {
  exec::host_context context(2);
  static_assert(std::is_same_v<exec::host_context::device, device::host>);
  static_assert(!std::is_copy_constructible_v<exec::host_context>);
  CHECK(context.pool().size() == 2);
  CHECK(context.profiler == nullptr);
  float* first = nullptr;
  for (int i = 0; i < 3; ++i) {
    arena_scope scope(context.scratch());
    float* const p = context.scratch().allocate<float>(1000);
    context.pool().for_each(1000, [&](index_t k) { p[k] = float(k); });
    CHECK(p[999] == 999.0f);
    if (!first) first = p;
    CHECK(p == first);  // the same memory every time
  }
  CHECK(context.scratch().system_allocations() == 1);
  exec::host_context other(0);
  CHECK(other.pool().size() == 1);
}
