// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Files and folders that are there whole or not at all, whatever happens while they are written.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <system_error>

#include <tenon/io/system.hpp>

namespace tenon::io {

/// What a writer function writes to. Small pieces are gathered; large ones go straight to the file, and straight to the
/// disk, past the page cache, when they lie at a page of memory and come to lie at one of the file.
/// @error file_error(io_failed) from any member when the disk is full or the like
class file_writer {
 public:
  file_writer(int fd, path const& target) : file(fd), name(target), buffer(new char[capacity]) {}
  file_writer(file_writer const&) = delete;
  file_writer& operator=(file_writer const&) = delete;

  void write(void const* data, std::size_t bytes) {
    total += bytes;
    if (bytes > capacity - filled) flush();
    if (bytes >= capacity) return put(data, bytes);
    if (bytes) std::memcpy(buffer.get() + filled, data, bytes);
    filled += bytes;
  }
  void write(std::string_view text) { write(text.data(), text.size()); }
  void write(std::span<std::byte const> bytes) { write(bytes.data(), bytes.size()); }
  void flush() { put(buffer.get(), std::exchange(filled, 0)); }
  std::size_t bytes_written() const { return total; }

 private:
  static constexpr std::size_t capacity = std::size_t(1) << 18, page = 4096;
  void put(void const* data, std::size_t bytes) {
    constexpr std::size_t piece = std::size_t(1) << 24;
    for (auto const* p = static_cast<char const*>(data); bytes;) {
      std::size_t n = bytes < piece ? bytes : piece;
      bool const direct = n >= page && (place | reinterpret_cast<std::uintptr_t>(p)) % page == 0 && bypass_cache(true);
      if (direct) n -= n % page;
      else bypass_cache(false);
      ssize_t const done = ::write(file, p, n);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0 && errno == EINVAL && direct) {  // some file systems say so only now
        can_bypass = false;
        continue;
      }
      if (done <= 0)
        detail::fail(name, "cannot write, and what was there before is untouched", done < 0 ? errno : ENOSPC);
#ifdef SYNC_FILE_RANGE_WRITE
      if (!direct) (void)::sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE);  // the disk begins now, not at the end
#endif
      p += done, bytes -= std::size_t(done), place += std::size_t(done);
    }
  }
  /// Whether what is written from here on goes past the page cache.
  bool bypass_cache([[maybe_unused]] bool wanted) {
#ifdef O_DIRECT
    wanted = wanted && can_bypass;
    if (wanted != bypasses) {
      if (::fcntl(file, F_SETFL, wanted ? O_DIRECT : 0) == 0) bypasses = wanted;
      else can_bypass = false;
    }
#endif
    return bypasses;
  }
  int file;
  path const& name;
  std::unique_ptr<char[]> buffer;
  std::size_t filled = 0, total = 0, place = 0;
  bool can_bypass = true, bypasses = false;
};

namespace detail {

/// Names of temporaries: ".NAME.tenon-PID-COUNT". A live writer holds a lock on its own, so who can lock one may remove
/// it.
inline constexpr std::string_view temporary_mark = ".tenon-";

inline bool is_temporary_name(std::string const& name) {
  auto const at = name.rfind(temporary_mark);
  return name.size() > 1 && name[0] == '.' && at != std::string::npos && at > 0 &&
         name.find_first_not_of("0123456789-", at + temporary_mark.size()) == std::string::npos;
}
/// Removes what killed runs left in `folder`. Failing to do so is no reason to stop.
inline void remove_stale_temporaries(path const& folder) {
  std::error_code ignored;
  for (std::filesystem::directory_iterator it(folder, ignored), end; !ignored && it != end; it.increment(ignored)) {
    if (!is_temporary_name(it->path().filename().string())) continue;
    descriptor const d = descriptor::open(it->path(), O_RDONLY | O_NOFOLLOW);
    std::error_code cannot_remove;
    if (d && ::flock(d.get(), LOCK_EX | LOCK_NB) == 0) std::filesystem::remove_all(it->path(), cannot_remove);
  }
}
inline path temporary_name(path const& target) {
  static std::atomic<unsigned> count{0};
  std::string const name = target.filename().string().substr(0, 200);  // file systems end at 255
  return folder_of(target) / ("." + name + std::string(temporary_mark) + std::to_string(::getpid()) + "-" +
                              std::to_string(count.fetch_add(1)));
}
/// Locks the new temporary and makes sure that nobody's cleaning took it away between its creation and the lock.
inline bool lock_if_still_there(int fd, path const& name) {
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
  struct stat by_descriptor {
  }, by_name{};
  return ::fstat(fd, &by_descriptor) == 0 && ::stat(name.c_str(), &by_name) == 0 &&
         by_descriptor.st_ino == by_name.st_ino && by_descriptor.st_dev == by_name.st_dev;
}
/// The place a write to `file` would reach: symbolic links are followed, as fopen does.
inline path resolved(path const& file) {
  std::error_code none;
  if (!std::filesystem::is_symlink(file, none)) return file;
  path const real = std::filesystem::weakly_canonical(file, none);
  return none || real.empty() ? file : real;
}
/// Removes its file or folder on destruction unless released.
struct removal {
  path name;
  bool armed = true;
  ~removal() {
    std::error_code ignored;
    if (armed) std::filesystem::remove_all(name, ignored);
  }
};

}  // namespace detail

/// Replaces `file` by what `writer(file_writer&)` writes: a temporary beside it, then sync, rename, sync of the folder.
/// Readers see the old content or the new one, and a crash or power cut leaves one of the two. If anything fails, an
/// exception of the writer's own included, the temporary is removed and the old file is untouched. The mode of an
/// existing file is kept and a symbolic link is followed. Temporaries that killed runs left beside it are removed.
/// @error file_error(io_failed): folder missing or not writable, disk full   @test tests/io/atomic_file_test.cpp
template <class Writer>
  requires requires(Writer&& w, file_writer& out) { w(out); }
void write_file_atomically(path const& file, Writer&& writer) {
  constexpr char const* doing = "cannot write";
  path const target = detail::resolved(file);
  std::error_code none;
  if (target.filename().empty() || std::filesystem::is_directory(target, none)) detail::fail(file, doing, EISDIR);
  detail::remove_stale_temporaries(detail::folder_of(target));
  detail::descriptor d;
  detail::removal temporary{{}, false};
  for (;;) {
    temporary.name = detail::temporary_name(target);
    d = detail::descriptor::open(temporary.name, O_WRONLY | O_CREAT | O_EXCL);
    if (!d && errno == EEXIST) continue;  // left by an earlier process of this number, on another machine
    if (!d) detail::fail(file, doing, errno);
    temporary.armed = true;
    if (detail::lock_if_still_there(d.get(), temporary.name)) break;
  }
  file_writer out(d.get(), file);
  writer(out);
  out.flush();
  struct stat old {};
  if (::stat(target.c_str(), &old) == 0) (void)::fchmod(d.get(), old.st_mode & 07777);
  if (int const code = detail::sync_descriptor(d.get())) detail::fail(file, doing, code);
  if (::rename(temporary.name.c_str(), target.c_str()) != 0) detail::fail(file, doing, errno);
  temporary.armed = false;
  detail::sync_folder(detail::folder_of(target));
}
/// The same for a text that is at hand.
inline void write_file_atomically(path const& file, std::string_view text) {
  write_file_atomically(file, [&](file_writer& out) { out.write(text); });
}

/// A folder that appears under its name whole, or not at all: fill `path()`, then `commit()`. Without a commit the
/// destructor removes it. A folder already there under the name is replaced in one step where the system can exchange
/// names (Linux), else by two renames; `restore` then brings back what a crash between the two has left aside.
///
///     io::atomic_folder checkpoint("run/step-1000");
///     io::write_safetensors(checkpoint.path() / "model.safetensors", tensors);
///     checkpoint.commit();
///
/// @error file_error(io_failed)   @test tests/io/atomic_file_test.cpp
class atomic_folder {
 public:
  /// Makes the folders above `name` too.
  explicit atomic_folder(io::path name) : target(without_slash(std::move(name))) {
    if (target.filename().empty() || target.filename() == "." || target.filename() == "..")
      throw file_error(target.string(), "cannot be written as a whole: it has no name. Fix: name a folder.");
    std::error_code code;
    if (std::filesystem::exists(target, code) && !std::filesystem::is_directory(target, code))
      detail::fail(target, "cannot create the folder", EEXIST);
    std::filesystem::create_directories(detail::folder_of(target), code);
    if (code) detail::fail(detail::folder_of(target), "cannot create the folder", code.value());
    restore(target);
    detail::remove_stale_temporaries(detail::folder_of(target));
    for (;;) {
      temporary.name = detail::temporary_name(target);
      if (::mkdir(temporary.name.c_str(), 0777) != 0) {
        if (errno == EEXIST) continue;
        detail::fail(target, "cannot create the folder", errno);
      }
      temporary.armed = true;
      lock = detail::descriptor::open(temporary.name, O_RDONLY | O_DIRECTORY);
      if (lock && detail::lock_if_still_there(lock.get(), temporary.name)) break;
    }
  }
  atomic_folder(atomic_folder const&) = delete;
  atomic_folder& operator=(atomic_folder const&) = delete;

  /// Where to put the files until `commit`.
  io::path const& path() const { return temporary.name; }

  /// Puts everything on the disk and gives the folder its name. Once.
  void commit() {
    try {
      for (auto const& entry : std::filesystem::recursive_directory_iterator(temporary.name)) sync_entry(entry);
    } catch (std::filesystem::filesystem_error const& e) {
      detail::fail(target, "cannot write", e.code().value());
    }
    if (int const code = detail::sync_descriptor(lock.get())) detail::fail(target, "cannot write", code);
    io::path const above = detail::folder_of(target);
    if (::rename(temporary.name.c_str(), target.c_str()) == 0) temporary.armed = false;
    else if (errno != EEXIST && errno != ENOTEMPTY) detail::fail(target, "cannot replace", errno);
    else if (!exchange()) replace_in_two_steps(above);
    detail::sync_folder(above);
  }

  /// If a crash in the midst of a replacement left the older folder aside and nothing under its name, gives it its name
  /// back. Call it before reading; a new `atomic_folder` does so by itself.
  static void restore(io::path const& name) {
    io::path const whole = without_slash(name), aside = set_aside(whole);
    std::error_code ignored;
    if (!std::filesystem::exists(aside, ignored)) return;
    if (!std::filesystem::exists(whole, ignored)) std::filesystem::rename(aside, whole, ignored);
    else std::filesystem::remove_all(aside, ignored);
  }

 private:
  static io::path without_slash(io::path p) { return p.has_filename() ? p : p.parent_path(); }
  static io::path set_aside(io::path const& whole) {
    return detail::folder_of(whole) / ("." + whole.filename().string() + ".tenon-previous");
  }
  void sync_entry(std::filesystem::directory_entry const& entry) const {
    if (entry.is_symlink() || !(entry.is_regular_file() || entry.is_directory())) return;
    detail::descriptor const d = detail::descriptor::open(entry.path(), O_RDONLY);
    if (!d) detail::fail(entry.path(), "cannot write", errno);
    if (int const code = detail::sync_descriptor(d.get())) detail::fail(entry.path(), "cannot write", code);
  }
  /// True when the new folder has the name and the older one the temporary's, which is then removed.
  bool exchange() {
#if defined(__linux__) && defined(RENAME_EXCHANGE)
    if (::renameat2(AT_FDCWD, temporary.name.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) return false;
    detail::sync_folder(detail::folder_of(target));
    std::error_code ignored;
    std::filesystem::remove_all(temporary.name, ignored);
    temporary.armed = false;
    return true;
#else
    return false;
#endif
  }
  void replace_in_two_steps(io::path const& above) {
    io::path const aside = set_aside(target);
    if (::rename(target.c_str(), aside.c_str()) != 0) detail::fail(target, "cannot replace", errno);
    detail::sync_folder(above);
    if (::rename(temporary.name.c_str(), target.c_str()) != 0) {
      int const code = errno;
      (void)::rename(aside.c_str(), target.c_str());
      detail::fail(target, "cannot replace", code);
    }
    temporary.armed = false;
    detail::sync_folder(above);
    std::error_code ignored;
    std::filesystem::remove_all(aside, ignored);
  }

  io::path target;
  detail::removal temporary{{}, false};
  detail::descriptor lock;
};

/// Removes a folder, or nothing of it if it cannot be: a kill in the midst leaves a temporary, which the next writer
/// beside it cleans up.
/// @test tests/io/atomic_file_test.cpp
inline void remove_folder_atomically(path const& folder) {
  path const temporary = detail::temporary_name(folder);
  if (::rename(folder.c_str(), temporary.c_str()) != 0) detail::fail(folder, "cannot remove the folder", errno);
  std::error_code ignored;
  std::filesystem::remove_all(temporary, ignored);
}

}  // namespace tenon::io
