// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <fstream>
#include <string>

#include <tenon/io/system.hpp>

namespace tenon::io {

/// A file that one holder has at a time. The system lets it go when its process ends, however that ends; the file stays,
/// and says who had it last.
/// @error file_error: somebody else holds it, and who that is; the file cannot be made   @test tests/io/file_lock_test.cpp
class file_lock {
 public:
  /// @param what is locked, for the message: "the checkpoints of this folder"
  file_lock(path const& file, std::string const& what) {
    held = detail::descriptor::open(file, O_RDWR | O_CREAT);
    if (!held) detail::fail(file, "cannot lock", errno);
    // File systems that cannot lock let everybody in, as they did before there were locks.
    if (::flock(held.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      std::string holder;
      std::getline(std::ifstream(file), holder);
      throw file_error(file.string(), "is locked: " + (holder.empty() ? "another process" : holder) + " writes " +
                                          what + ". Fix: wait for it or end it, or use another folder.");
    }
    char host[256] = "an unknown host";
    (void)::gethostname(host, sizeof host - 1);
    std::string const mine = "process " + std::to_string(::getpid()) + " on " + host + "\n";
    if (::ftruncate(held.get(), 0) == 0) (void)detail::write_all(held.get(), mine.data(), mine.size());
  }

 private:
  detail::descriptor held;
};

}  // namespace tenon::io
