// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <tenon/core/arena.hpp>

using namespace tenon;

namespace {
bool all_zero(std::byte const* p, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    if (p[i] != std::byte{0}) return false;
  return true;
}
}  // namespace

TEST_CASE("memory_block: zeroed and aligned, whatever the system's allocator held before") {
  std::size_t const mib = std::size_t(1) << 20;
  for (std::size_t bytes : {std::size_t(1), std::size_t(4096), std::size_t(100'000), 2 * mib - 1, 2 * mib, 2 * mib + 1,
                            5 * mib + 7, 70 * mib}) {
    CAPTURE(bytes);
    for (int again = 0; again < 2; ++again) {
      memory_block b(bytes);
      REQUIRE(b.data() != nullptr);
      CHECK(b.size() >= bytes);
      CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % 4096 == 0);
      CHECK(all_zero(b.data(), bytes < 8 * mib ? b.size() : 8192));
      std::memset(b.data(), 0xff, bytes < 8 * mib ? b.size() : 8192);  // dirt for the next one
      b.data()[b.size() - 1] = std::byte{1};
    }
  }
}

TEST_CASE("memory_block: moves, and an empty one holds nothing") {
  memory_block a(100), none, zero(0);
  std::byte* const p = a.data();
  CHECK(none.data() == nullptr);
  CHECK(zero.size() == 0);
  memory_block b(std::move(a));
  CHECK(b.data() == p);
  CHECK(a.data() == nullptr);
  CHECK(a.size() == 0);
  memory_block c(std::size_t(4) << 20);
  c = std::move(b);
  CHECK(c.data() == p);
}

TEST_CASE("memory_block: more than there is ends in an error that says how much was asked") {
#if !defined(__SANITIZE_THREAD__)
  for (std::size_t bytes : {std::size_t(1) << 60, ~std::size_t(0), ~std::size_t(0) - 4000}) {
    CAPTURE(bytes);
    try {
      memory_block b(bytes);
      FAIL("the system gave it");
    } catch (error const& e) {
      CHECK(e.code == errc::out_of_memory);
      CHECK(std::string(e.what()).find(std::to_string(bytes)) != std::string::npos);
    }
  }
#endif
}

TEST_CASE("arena: values are aligned to a cache line and do not overlap") {
  arena a(1 << 16);
  struct piece {
    unsigned char* p;
    index_t n;
  };
  std::vector<piece> pieces;
  for (int i = 0; i < 200; ++i) {
    index_t const n = 1 + (i * 37) % 5000;
    auto* p = a.allocate<unsigned char>(n);
    CHECK(reinterpret_cast<std::uintptr_t>(p) % cache_line_bytes == 0);
    std::memset(p, i, std::size_t(n));
    pieces.push_back({p, n});
  }
  for (int i = 0; i < 200; ++i) {
    auto const& [p, n] = pieces[std::size_t(i)];
    bool same = true;
    for (index_t k = 0; k < n; ++k) same = same && p[k] == static_cast<unsigned char>(i);
    CHECK(same);
  }
}

TEST_CASE("arena: the second run of the same work takes nothing from the system and the same addresses") {
  arena a(1 << 14);
  std::vector<void*> first;
  std::size_t allocations = 0, bytes = 0;
  for (int run = 0; run < 3; ++run) {
    arena_scope scope(a);
    std::vector<void*> now;
    for (index_t n : {10, 5000, 100'000, 1, 3000, 20'000, 0, 7}) {
      now.push_back(a.allocate<float>(n));
      arena_scope inner(a);
      now.push_back(a.allocate<double>(n));
    }
    if (run == 0) first = now, allocations = a.system_allocations(), bytes = a.bytes_reserved();
    CHECK(now == first);
    CHECK(a.system_allocations() == allocations);
    CHECK(a.bytes_reserved() == bytes);
  }
}

TEST_CASE("arena: a release gives back what came after its mark") {
  arena a;
  auto m = a.allocate_matrix<float>(3, 5);
  CHECK(m.extent(0) == 3);
  CHECK(m.stride(0) == 5);
  auto const mark = a.mark();
  float* const p = a.allocate<float>(100);
  a.release(mark);
  CHECK(a.allocate<float>(1) == p);
}

TEST_CASE("arena: a loan is taken first, grows, is given back by a release, and ends") {
  arena a(1 << 14);
  alignas(cache_line_bytes) std::byte memory[4096];
  auto const lent = [&](void* p) { return p >= memory && p < memory + sizeof memory; };
  std::byte* const own = a.allocate<std::byte>(64);
  a.lend(std::span(memory, 1024));
  auto const mark = a.mark();
  std::byte* const first = a.allocate<std::byte>(1000);
  CHECK(first == memory);
  CHECK_FALSE(lent(a.allocate<std::byte>(64)));  // 24 bytes are left
  a.lend(std::span(memory, 2048));
  CHECK(a.allocate<std::byte>(64) == memory + 1024);
  for (int blocks = 0; blocks < 3; ++blocks) CHECK_FALSE(lent(a.allocate<std::byte>(1 << 14)));
  CHECK(a.allocate<std::byte>(64) == memory + 1088);  // a new block of the arena's own is no new loan
  a.release(mark);
  CHECK(a.allocate<std::byte>(64) == memory);
  a.lend({});
  CHECK(a.allocate<std::byte>(64) == own + 64);
  a.lend(std::span(memory, 64));
  CHECK(a.allocate<std::byte>(64) == memory);
}
