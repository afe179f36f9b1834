// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>

#include <sys/mman.h>

#include <tenon/core/config.hpp>
#include <tenon/io/system.hpp>

namespace tenon::io {

/// How a file's bytes come to memory. `automatic` maps files of 64 KiB and more and reads smaller ones, pipes, and what
/// the file system cannot map.
enum class access { automatic, map, read };

/// A whole file as read-only bytes, aligned to a cache line. A mapping shows the file itself: who truncates the file
/// meanwhile kills the reader, so tenon's writers replace files and never change them.
/// @error file_error when the file is missing, unreadable or a folder   @test tests/io/mapped_file_test.cpp
class mapped_file {
 public:
  mapped_file() = default;
  explicit mapped_file(path file, access how = access::automatic) : name(std::move(file)) {
    detail::descriptor const d = detail::descriptor::open(name, O_RDONLY);
    if (!d) detail::fail(name, "cannot read", errno);
    struct stat info {};
    if (::fstat(d.get(), &info) != 0) detail::fail(name, "cannot read", errno);
    if (S_ISDIR(info.st_mode)) detail::fail(name, "cannot read", EISDIR);
    bool const plain = S_ISREG(info.st_mode);
    auto const size = std::size_t(plain ? info.st_size : 0);
    if (plain && size > 0 && how != access::read && (how == access::map || size >= least_to_map)) map(d.get(), size);
    if (!mapping) read(d.get(), size);
  }

  std::span<std::byte const> bytes() const { return content; }
  std::size_t size() const { return content.size(); }
  path const& file() const { return name; }
  bool is_mapped() const { return mapping != nullptr; }
  /// Tells the system that the file will be read from beginning to end soon.
  void will_read_in_order() const {
    if (mapping) ::madvise(mapping.get(), size(), MADV_SEQUENTIAL);
  }

 private:
  static constexpr std::size_t least_to_map = 65536;
  struct unmap {
    std::size_t bytes = 0;
    void operator()(void* p) const { ::munmap(p, bytes); }
  };
  struct free_aligned {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(cache_line_bytes)); }
  };
  using buffer = std::unique_ptr<std::byte[], free_aligned>;
  static buffer take(std::size_t bytes) {
    return buffer(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t(cache_line_bytes))));
  }

  void map(int fd, std::size_t size) {
    void* const p = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return;  // some file systems cannot: read it instead
#ifdef MADV_HUGEPAGE
    ::madvise(p, size, MADV_HUGEPAGE);  // where the file system has large folios: reading is up to 1.4 times faster
#endif
    mapping = std::unique_ptr<void, unmap>(p, unmap{size});
    content = {static_cast<std::byte const*>(p), size};
  }
  /// `expected` is a hint: the end of the file decides.
  void read(int fd, std::size_t expected) {
    std::size_t capacity = expected + 1, length = 0;
    owned = take(capacity);
    for (;;) {
      if (length == capacity) {
        buffer larger = take(2 * capacity);
        std::memcpy(larger.get(), owned.get(), length);
        owned = std::move(larger);
        capacity *= 2;
      }
      ssize_t const n = ::read(fd, owned.get() + length, capacity - length);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) detail::fail(name, "cannot read", errno);
      if (n == 0) break;
      length += std::size_t(n);
    }
    content = {owned.get(), length};
  }

  path name;
  std::unique_ptr<void, unmap> mapping{nullptr, unmap{}};
  buffer owned;
  std::span<std::byte const> content;  // points into one of the two above, so a move keeps it valid
};

}  // namespace tenon::io
