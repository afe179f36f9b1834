// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#if defined(__linux__)
#  include <sched.h>
#  include <sys/mount.h>
#endif

#include <io/scratch_folder.hpp>
#include <tenon/io/atomic_file.hpp>

namespace io = tenon::io;
namespace fs = std::filesystem;

namespace {

/// Runs f in a process of its own: its exit code, or minus the signal that ended it.
int in_child(std::function<int()> const& f) {
  pid_t const child = ::fork();
  if (child == 0) {
    int code = 99;
    try {
      code = f();
    } catch (...) {
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// Text that begins at a page of memory.
struct page_aligned {
  explicit page_aligned(std::size_t bytes) : memory(new char[bytes + 4096]) {
    void* p = memory.get();
    std::size_t space = bytes + 4096;
    data = static_cast<char*>(std::align(4096, bytes, p, space));
    for (std::size_t i = 0; i < bytes; ++i) data[i] = char(i * i >> 7);
    text = {data, bytes};
  }
  std::unique_ptr<char[]> memory;
  char* data;
  std::string_view text;
};
/// How many of a file's pages are in the page cache.
std::ptrdiff_t pages_in_cache(fs::path const& file) {
  auto const d = io::detail::descriptor::open(file, O_RDONLY);
  std::size_t const bytes = fs::file_size(file);
  void* const p = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, d.get(), 0);
  std::vector<unsigned char> in((bytes + 4095) / 4096);
  REQUIRE(::mincore(p, bytes, in.data()) == 0);
  ::munmap(p, bytes);
  return std::count_if(in.begin(), in.end(), [](unsigned char flags) { return flags & 1; });
}

}  // namespace

TEST_CASE("write_file_atomically replaces a file, keeps its mode and follows links") {
  scratch_folder const folder;
  io::write_file_atomically(folder / "a.txt", "first");
  CHECK(folder.read("a.txt") == "first");
  ::chmod((folder / "a.txt").c_str(), 0640);
  fs::create_symlink("a.txt", folder / "link");
  std::string const large(700001, 'z');
  io::write_file_atomically(folder / "link", [&](io::file_writer& out) {
    out.write("head");
    out.write(large);
    out.write(std::as_bytes(std::span("tail", 4)));
    CHECK(out.bytes_written() == large.size() + 8);
    CHECK(folder.read("a.txt") == "first");  // readers still see the old one
  });
  CHECK(folder.read("a.txt") == "head" + large + "tail");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK((fs::status(folder / "a.txt").permissions() & fs::perms::mask) == fs::perms(0640));
  CHECK(folder.count() == 2);
}

TEST_CASE("write_file_atomically: what lies at a page of memory and of the file goes past the page cache") {
  scratch_folder const folder;
  std::size_t const page = 4096, large = std::size_t(20) << 20;
  page_aligned const data(large + 5000);
  auto const written = [&](std::string_view head, std::string_view text) {
    io::write_file_atomically(folder / "a", [&](io::file_writer& out) {
      out.write(head);
      out.write(text);
      out.write("between");
      out.write(text);
    });
    std::string const whole = std::string(head) + std::string(text) + "between" + std::string(text);
    CHECK(folder.read("a") == whole);
  };
  for (std::size_t bytes : {page, 64 * page, 64 * page + 1, 65 * page - 1})
    for (std::size_t head : {std::size_t(0), std::size_t(1), page, 3 * page + 8})
      written(std::string(head, 'h'), data.text.substr(0, bytes));
  written(std::string(page, 'h'), data.text);
#ifdef O_DIRECT
  auto const direct = io::detail::descriptor::open(folder / "probe", O_WRONLY | O_CREAT | O_DIRECT);
  if (!direct || ::write(direct.get(), data.data, large) != ssize_t(large) || pages_in_cache(folder / "probe") != 0) {
    MESSAGE("skipped: this file system writes through the page cache");
    return;
  }
  io::write_file_atomically(folder / "a", [&](io::file_writer& out) {
    out.write(std::string(page, 'h'));
    out.write(data.text);
  });
  CHECK(pages_in_cache(folder / "a") == 2);  // the head, and what is less than a page at the end
#endif
}

TEST_CASE("write_file_atomically: a writer that throws leaves everything as it was") {
  scratch_folder const folder;
  folder.write("a.txt", "old");
  CHECK_THROWS_AS(io::write_file_atomically(folder / "a.txt",
                                            [](io::file_writer& out) {
                                              out.write("new");
                                              throw std::logic_error("no");
                                            }),
                  std::logic_error);
  CHECK(folder.read("a.txt") == "old");
  CHECK(folder.count() == 1);
}

TEST_CASE("write_file_atomically names the place and the fix") {
  scratch_folder const folder;
  for (auto const& name : {folder / "no/such/a.txt", folder.path, folder / ("x" + std::string(300, 'x'))}) {
    std::string const m = message_of([&] { io::write_file_atomically(name, "x"); });
    CHECK(is_one_sentence(m));
    CHECK(m.find(name.string()) == 0);
  }
  CHECK(folder.count() == 0);
}

TEST_CASE("write_file_atomically: short writes and a full disk leave the old file") {
  scratch_folder const folder;
  folder.write("a.txt", "old");
  page_aligned const aligned(300000);
  std::string const other(aligned.text);
  for (std::string_view const large : {aligned.text, std::string_view(other)}) {
    // A limit on the file size makes write() come back short, then fail.
    int const limited = in_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      rlimit const limit{100000, 100000};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      std::string const m = message_of([&] { io::write_file_atomically(folder / "a.txt", large); });
      bool const told = m.find("a.txt: ") != std::string::npos &&
                        m.find("the file would exceed the allowed size") != std::string::npos;
      return is_one_sentence(m) && told ? 7 : 8;
    });
    CHECK(limited == 7);
    CHECK(folder.read("a.txt") == "old");
    CHECK(folder.count() == 1);
#if defined(__linux__)
    int const full = in_child([&] {
      if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 50;
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
      if (::mount("none", folder.path.c_str(), "tmpfs", 0, "size=128k") != 0) return 50;
      folder.write("a.txt", "old");
      std::string const m = message_of([&] { io::write_file_atomically(folder / "a.txt", large); });
      if (m.find("no space is left") == std::string::npos || folder.read("a.txt") != "old" || folder.count() != 1)
        return 8;
      std::string const n = message_of([&] {
        io::atomic_folder checkpoint(folder / "step-1");
        io::write_file_atomically(checkpoint.path() / "model", large);
        checkpoint.commit();
      });
      return n.find("no space is left") != std::string::npos && folder.count() == 1 ? 7 : 9;
    });
    if (full == 50) MESSAGE("skipped: may not mount a small disk here");
    else CHECK(full == 7);
#endif
  }
}

TEST_CASE("temporaries of killed runs are removed, those of living ones are not") {
  scratch_folder const folder;
  int const killed = in_child([&]() -> int {
    io::atomic_folder const half(folder / "step-2");
    io::write_file_atomically(half.path() / "model", "x");
    io::write_file_atomically(folder / "a.txt", [](io::file_writer& out) {
      out.write("half");
      out.flush();
      ::raise(SIGKILL);
    });
    return 0;
  });
  CHECK(killed == -SIGKILL);
  CHECK(folder.count() == 2);
  folder.write(".keep.tenon-notes", "not ours");
  {
    io::atomic_folder const living(folder / "step-3");
    io::write_file_atomically(folder / "a.txt", "whole");
    CHECK(fs::exists(living.path()));
    CHECK(folder.count() == 3);
  }
  CHECK(folder.count() == 2);
  CHECK(folder.read("a.txt") == "whole");
}

TEST_CASE("atomic_folder appears whole, replaces an older one, and is removed without a commit") {
  scratch_folder const folder;
  auto const fill = [&](io::atomic_folder& f, char const* text) {
    fs::create_directories(f.path() / "inner");
    io::write_file_atomically(f.path() / "inner/a.txt", text);
  };
  {
    io::atomic_folder f(folder / "run/step-1/");  // makes run/ too
    fill(f, "one");
    CHECK_FALSE(fs::exists(folder / "run/step-1"));
    f.commit();
  }
  CHECK(folder.read("run/step-1/inner/a.txt") == "one");
  {
    io::atomic_folder f(folder / "run/step-1");
    fill(f, "two");
    CHECK(folder.read("run/step-1/inner/a.txt") == "one");
    f.commit();
  }
  CHECK(folder.read("run/step-1/inner/a.txt") == "two");
  try {
    io::atomic_folder f(folder / "run/step-1");
    fill(f, "three");
    throw std::logic_error("no");
  } catch (std::logic_error const&) {
  }
  CHECK(folder.read("run/step-1/inner/a.txt") == "two");
  CHECK(std::distance(fs::directory_iterator(folder / "run"), fs::directory_iterator()) == 1);
}

TEST_CASE("atomic_folder::restore brings back what a crash left aside") {
  scratch_folder const folder;
  fs::create_directories(folder / ".step-1.tenon-previous");
  folder.write(".step-1.tenon-previous/a.txt", "older");
  io::atomic_folder::restore(folder / "step-1");
  CHECK(folder.read("step-1/a.txt") == "older");
  fs::create_directories(folder / ".step-1.tenon-previous");
  io::atomic_folder::restore(folder / "step-1");
  CHECK(folder.read("step-1/a.txt") == "older");
  CHECK(folder.count() == 1);
}

TEST_CASE("atomic_folder says what is in the way") {
  scratch_folder const folder;
  folder.write("file", "x");
  for (auto const& name : {folder / "file", folder / "file/step-1", fs::path("/")}) {
    std::string const m = message_of([&] { io::atomic_folder f(name); });
    CHECK(is_one_sentence(m));
  }
}

TEST_CASE("remove_folder_atomically: what a kill leaves of it is a temporary, which the next writer removes") {
  scratch_folder const folder;
  fs::create_directories(folder / "step-1/below");
  folder.write("step-1/a.txt", "x");
  io::remove_folder_atomically(folder / "step-1");
  CHECK(folder.count() == 0);
  CHECK(is_one_sentence(message_of([&] { io::remove_folder_atomically(folder / "step-1"); })));
  fs::create_directories(io::detail::temporary_name(folder / "step-2") / "below");  // as after a kill
  io::atomic_folder(folder / "step-3").commit();
  CHECK(folder.count() == 1);
}
