// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The few POSIX calls that files need, as RAII and exceptions. Nothing else in io/ sees errno.
#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tenon/core/error.hpp>

namespace tenon::io {

using path = std::filesystem::path;

namespace detail {

/// What errno means and what to do about it: "no space is left on the disk. Fix: ...".
inline std::string reason_and_fix(int code) {
  switch (code) {
    case ENOENT: return "there is no such file or folder. Fix: check the spelling, or create it first.";
    case EACCES:
    case EPERM: return "permission is denied. Fix: change its owner or mode (chmod), or use another place.";
    case EROFS: return "the file system is read-only. Fix: use a place that can be written.";
    case ENOSPC: return "no space is left on the disk. Fix: free some, or use another disk.";
    case EDQUOT: return "your disk quota is used up. Fix: free some space, or use another disk.";
    case EFBIG: return "the file would exceed the allowed size. Fix: raise the limit (ulimit -f), or use another disk.";
    case EISDIR: return "it is a folder. Fix: name a file.";
    case ENOTDIR: return "a part of the path is a file, not a folder. Fix: use another path.";
    case EEXIST:
    case ENOTEMPTY: return "something else is in its place. Fix: move that away, or use another path.";
    case ENAMETOOLONG: return "the name is too long. Fix: use a shorter one.";
    case EMFILE:
    case ENFILE: return "too many files are open. Fix: raise the limit (ulimit -n), or give fewer files.";
    default: return "the system says: " + std::generic_category().message(code) + ". Fix: check the disk and the path.";
  }
}

/// Throws that `doing` failed on `file`, e.g. "run/model.safetensors: cannot write: no space is left on the disk. Fix:
/// ...".
[[noreturn]] inline void fail(path const& file, std::string const& doing, int code) {
  file_error e(file.string(), doing + ": " + reason_and_fix(code));
  e.code = errc::io_failed;
  throw e;
}

/// A file descriptor that closes itself.
class descriptor {
 public:
  descriptor() = default;
  explicit descriptor(int fd) : number(fd) {}
  descriptor(descriptor&& o) noexcept : number(std::exchange(o.number, -1)) {}
  descriptor& operator=(descriptor&& o) noexcept {
    std::swap(number, o.number);
    return *this;
  }
  ~descriptor() {
    if (number >= 0) ::close(number);
  }
  int get() const { return number; }
  explicit operator bool() const { return number >= 0; }

  static descriptor open(path const& file, int flags, unsigned mode = 0666) {
    int fd;
    do fd = ::open(file.c_str(), flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return descriptor(fd);
  }

 private:
  int number = -1;
};

/// Writes all bytes or returns errno.
inline int write_all(int fd, void const* data, std::size_t bytes) {
  auto const* p = static_cast<char const*>(data);
  while (bytes) {
    constexpr std::size_t most = std::size_t(1) << 30;  // Linux writes at most 2 GiB - 4 KiB a call
    ssize_t const n = ::write(fd, p, bytes < most ? bytes : most);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return ENOSPC;
    p += n;
    bytes -= std::size_t(n);
  }
  return 0;
}

/// Puts a file's or folder's content on the disk; 0 or errno. File systems that cannot do that for folders say EINVAL.
inline int sync_descriptor(int fd) {
  int r;
  do r = ::fsync(fd);
  while (r != 0 && errno == EINTR);
  return r == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
}
/// Puts a folder's list of names on the disk, so that a rename in it survives a power cut.
inline void sync_folder(path const& folder) {
  descriptor const d = descriptor::open(folder, O_RDONLY | O_DIRECTORY);
  if (!d) fail(folder, "cannot open the folder", errno);
  if (int const code = sync_descriptor(d.get())) fail(folder, "cannot sync the folder", code);
}
/// The folder that holds `file`; "." for a bare name.
inline path folder_of(path const& file) { return file.has_parent_path() ? file.parent_path() : path("."); }

}  // namespace detail
}  // namespace tenon::io
