// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include <io/scratch_folder.hpp>
#include <tenon/io/mapped_file.hpp>

namespace io = tenon::io;

TEST_CASE("mapped_file shows a file's bytes, mapped or read") {
  scratch_folder const folder;
  for (std::size_t size : {std::size_t(0), std::size_t(1), std::size_t(4096), std::size_t(65535), std::size_t(65536),
                           std::size_t(200001)}) {
    std::string content(size, '\0');
    for (std::size_t i = 0; i < size; ++i) content[i] = char(i * 7919 >> 4);
    folder.write("a.bin", content);
    for (auto how : {io::access::automatic, io::access::map, io::access::read}) {
      io::mapped_file const f(folder / "a.bin", how);
      REQUIRE(f.size() == size);
      if (size) CHECK(std::memcmp(f.bytes().data(), content.data(), size) == 0);
      CHECK(f.is_mapped() == (size > 0 && (how == io::access::map || (how == io::access::automatic && size >= 65536))));
      CHECK(reinterpret_cast<std::uintptr_t>(f.bytes().data()) % 64 == 0);
      f.will_read_in_order();
    }
  }
}

TEST_CASE("mapped_file keeps its bytes when moved") {
  scratch_folder const folder;
  folder.write("small", "abc");
  folder.write("large", std::string(100000, 'x'));
  for (char const* name : {"small", "large"}) {
    io::mapped_file first(folder / name);
    auto const* const where = first.bytes().data();
    io::mapped_file second = std::move(first);
    CHECK(second.bytes().data() == where);
    io::mapped_file third;
    third = std::move(second);
    CHECK(third.bytes().data() == where);
    CHECK(char(third.bytes()[0]) == (name[0] == 's' ? 'a' : 'x'));
  }
}

TEST_CASE("mapped_file reads pipes") {
  scratch_folder const folder;
  auto const name = folder / "pipe";
  REQUIRE(::mkfifo(name.c_str(), 0600) == 0);
  std::string const text(150000, 'p');
  std::thread writer([&] { std::ofstream(name) << text; });
  io::mapped_file const f(name);
  writer.join();
  CHECK(f.size() == text.size());
  CHECK_FALSE(f.is_mapped());
}

TEST_CASE("mapped_file names the file and the fix") {
  scratch_folder const folder;
  CHECK(message_of([&] { io::mapped_file f(folder / "missing.txt"); }) ==
        (folder / "missing.txt").string() +
            ": cannot read: there is no such file or folder. Fix: check the spelling, or create it first.");
  CHECK(message_of([&] { io::mapped_file f(folder.path); }) ==
        folder.path.string() + ": cannot read: it is a folder. Fix: name a file.");
  folder.write("secret", "x");
  ::chmod((folder / "secret").c_str(), 0);
  if (::geteuid() != 0)
    CHECK(message_of([&] { io::mapped_file f(folder / "secret"); }).find("permission") != std::string::npos);
}
