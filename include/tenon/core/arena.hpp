// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Memory that is taken once and used again: a training step allocates nothing after the first.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

#include <tenon/core/config.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>

namespace tenon {

/// Zeroed, page-aligned memory from the operating system; large blocks ask for huge pages, and their untouched pages
/// cost nothing.
/// @error error(out_of_memory) with the number of bytes   @test tests/core/arena_test.cpp
class memory_block {
 public:
  memory_block() = default;
  explicit memory_block(std::size_t bytes) {
    if (!bytes) return;
    if (bytes <= std::numeric_limits<std::size_t>::max() / 2) {
      length = (bytes + page - 1) / page * page;
      if (length >= huge) length = (bytes + huge - 1) / huge * huge;
      if (length >= huge) pointer = map(length), calls.release = unmap;
      else pointer = allocate(length);
    }
    if (!pointer)
      throw error(errc::out_of_memory, "tenon::memory_block: the system has no " + std::to_string(bytes) +
                                           " bytes to give. Fix: a smaller batch, context or model.");
  }
  /// What is done with other memory: `evict` may write whole pages away that come back when they are touched.
  struct functions {
    void (*release)(std::byte*, std::size_t) = [](std::byte* p, std::size_t) { std::free(p); };
    void (*evict)(std::byte*, std::size_t) = nullptr;
  };
  /// Takes over memory that somebody else made, aligned to a page.
  memory_block(std::byte* made, std::size_t bytes, functions f) : pointer(made), length(bytes), calls(f) {}
  memory_block(memory_block&& o) noexcept
      : pointer(std::exchange(o.pointer, nullptr)), length(std::exchange(o.length, 0)), calls(o.calls) {}
  memory_block& operator=(memory_block&& o) noexcept {
    std::swap(pointer, o.pointer);
    std::swap(length, o.length);
    std::swap(calls, o.calls);
    return *this;
  }
  ~memory_block() {
    if (pointer) calls.release(pointer, length);
  }
  std::byte* data() const { return pointer; }
  std::size_t size() const { return length; }
  /// Bytes [begin, begin + bytes) are not needed soon: they need not stay in memory. Does nothing to memory that has
  /// nowhere to go; see `file_block`.
  void evict(std::size_t begin, std::size_t bytes) const {
    if (!calls.evict || !bytes) return;
    std::size_t const first = begin / page * page;
    calls.evict(pointer + first, (begin + bytes + page - 1) / page * page - first);
  }

 private:
  static constexpr std::size_t page = 4096, huge = std::size_t(2) << 20;

  static std::byte* allocate(std::size_t length) {
    void* p = std::aligned_alloc(page, length);
    if (p) std::memset(p, 0, length);
    return static_cast<std::byte*>(p);
  }
#if defined(__linux__)
  // A mapping of our own: the only memory that is sure to read as zero before anyone has touched it.
  static std::byte* map(std::size_t length) {
    void* p = mmap(nullptr, length + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    std::byte* const first = static_cast<std::byte*>(p);
    std::size_t const before = (huge - reinterpret_cast<std::uintptr_t>(p) % huge) % huge;
    if (before) munmap(first, before);
    munmap(first + before + length, huge - before);
    madvise(first + before, length, MADV_HUGEPAGE);
    return first + before;
  }
  static void unmap(std::byte* p, std::size_t length) { munmap(p, length); }
#else
  static std::byte* map(std::size_t length) { return allocate(length); }
  static void unmap(std::byte* p, std::size_t) { std::free(p); }
#endif

  std::byte* pointer = nullptr;
  std::size_t length = 0;
  functions calls;
};

/// A stack of memory. `allocate` moves the top up, `release(mark())` moves it back; blocks taken from the system are
/// kept, so a second run of the same work takes none. One thread at a time. Memory is not zeroed.
class arena {
 public:
  struct position {
    std::size_t block = 0, offset = 0, lent = 0, used = 0;
  };
  /// What an allocation of `bytes` takes.
  static constexpr std::size_t taken(std::size_t bytes) {
    return (bytes + cache_line_bytes - 1) / cache_line_bytes * cache_line_bytes;
  }
  explicit arena(std::size_t block_bytes = std::size_t(32) << 20) : least(block_bytes) {}
  /// Blocks come from f(bytes) from here on.
  void take_blocks_from(std::function<memory_block(std::size_t)> f) { source = std::move(f); }
  arena(arena const&) = delete;
  arena& operator=(arena const&) = delete;

  /// `count` values of T, aligned to a cache line; valid until a release below them.
  template <class T>
  T* allocate(index_t count) {
    return reinterpret_cast<T*>(take(std::size_t(count) * sizeof(T)));
  }
  template <class T>
  matrix_view<T> allocate_matrix(index_t rows, index_t cols) {
    return matrix(allocate<T>(rows * cols), rows, cols);
  }
  /// Memory of somebody else, who does not need it meanwhile, aligned to a cache line: taken before the arena's own
  /// where it has room. A longer loan with the same beginning extends the one before; an empty one ends it.
  void lend(std::span<std::byte> memory) {
    if (memory.data() != loan.data()) top.lent = 0;
    loan = memory;
  }
  position mark() const { return top; }
  void release(position p) { top = p; }
  /// See memory_block::evict; for all that is allocated, and stays so.
  void evict() const {
    for (auto const& b : blocks) b.evict(0, b.size());
  }
  /// Most bytes that were allocated at a time, without what was lent: what a planner foretells.
  std::size_t high_water() const { return most; }
  /// Bytes held from the system: whole blocks, and what an allocation left at the end of one.
  std::size_t bytes_reserved() const {
    std::size_t n = 0;
    for (auto const& b : blocks) n += b.size();
    return n;
  }
  /// How often the system was asked for memory.
  std::size_t system_allocations() const { return blocks.size(); }

 private:
  std::byte* take(std::size_t bytes) {
    bytes = taken(bytes);
    if (top.lent + bytes <= loan.size()) return loan.data() + std::exchange(top.lent, top.lent + bytes);
    while (top.block < blocks.size() && top.offset + bytes > blocks[top.block].size()) ++top.block, top.offset = 0;
    if (top.block == blocks.size()) blocks.push_back(source(bytes > least ? bytes : least));
    std::byte* p = blocks[top.block].data() + top.offset;
    top.offset += bytes;
    top.used += bytes;
    if (most < top.used) most = top.used;
    return p;
  }
  std::function<memory_block(std::size_t)> source = [](std::size_t bytes) { return memory_block(bytes); };
  std::vector<memory_block> blocks;
  std::span<std::byte> loan;
  position top;
  std::size_t most = 0;
  std::size_t least;
};

/// Gives back, at the end of a C++ scope, what was allocated from an arena within it.
class arena_scope {
 public:
  explicit arena_scope(arena& a) : owner(a), begin(a.mark()) {}
  ~arena_scope() { owner.release(begin); }
  arena_scope(arena_scope const&) = delete;
  arena_scope& operator=(arena_scope const&) = delete;

 private:
  arena& owner;
  arena::position begin;
};

}  // namespace tenon
