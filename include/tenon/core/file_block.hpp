// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Memory that the system may write to a disk.   @test tests/core/file_block_test.cpp
#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <tenon/core/arena.hpp>
#include <tenon/core/error.hpp>

namespace tenon {

/// A zeroed block that is a file without a name in `folder`: what is evicted from memory lies there, until the block goes
/// or the process ends. The room on the disk is taken here, not when it is too late.
/// @param folder empty: the system's for temporary files
/// @error file_error(io_failed) naming the folder and the bytes when it cannot be written or has not enough room
inline memory_block file_block(std::size_t bytes, std::string folder = {}) {
  if (!bytes) return {};
  char const* const temporary = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): nobody sets it meanwhile
  if (folder.empty()) folder = temporary && *temporary ? temporary : "/tmp";
  auto const fail = [&](int code) {
    file_error e(folder, "no file of " + std::to_string(bytes) +
                             " bytes can be made here to offload to: " + std::generic_category().message(code) +
                             ". Fix: name a folder that can be written, on a disk with that much room.");
    e.code = errc::io_failed;
    throw e;
  };
  std::string name = folder + "/tenon-offload-XXXXXX";
  int const file = ::mkstemp(name.data());
  if (file < 0) fail(errno);
  ::unlink(name.c_str());
  std::size_t const length = (bytes + 4095) / 4096 * 4096;
  int code = ::posix_fallocate(file, 0, off_t(length));
  void* p = MAP_FAILED;
  if (!code) {
    p = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    code = errno;
  }
  ::close(file);
  if (p == MAP_FAILED) fail(code);
  return memory_block(static_cast<std::byte*>(p), length,
                      {[](std::byte* begin, std::size_t n) { ::munmap(begin, n); },
                       [](std::byte* begin, std::size_t n) { ::madvise(begin, n, MADV_DONTNEED); }});
}

}  // namespace tenon
