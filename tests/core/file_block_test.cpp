// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <string>

#include <io/scratch_folder.hpp>
#include <tenon/core/file_block.hpp>
#include <tenon/core/tensor.hpp>

using namespace tenon;

namespace {
/// Bytes of this process that lie in memory now.
std::size_t resident() {
  std::size_t all = 0, pages = 0;
  std::ifstream("/proc/self/statm") >> all >> pages;
  return pages * 4096;
}
}  // namespace

TEST_CASE("a block in a file: zeroed, leaves memory when it is told to, and comes back") {
  scratch_folder const folder;
  std::size_t const bytes = (std::size_t(64) << 20) - 100;
  memory_block b = file_block(bytes, folder.path);
  REQUIRE(b.size() >= bytes);
  CHECK(folder.count() == 0);
  CHECK(b.data()[bytes - 1] == std::byte{0});
  std::memset(b.data(), 7, bytes);
  auto const full = resident();
  b.evict(5000, bytes / 2);
  if (full) CHECK(resident() + bytes / 2 < full + (std::size_t(4) << 20));
  b.evict(0, bytes);
  if (full) CHECK(resident() + bytes < full + (std::size_t(4) << 20));
  CHECK(b.data()[0] == std::byte{7});
  CHECK(b.data()[bytes - 1] == std::byte{7});
  CHECK(file_block(0).data() == nullptr);
  CHECK(file_block(1).data() != nullptr);

  dense_tensor<float, extents<dynamic>> t(extents<dynamic>(1000), std::move(b));
  t.data()[999] = 3;
  t.evict(500, 500);
  CHECK(t.data()[999] == 3);
  CHECK(is_one_sentence(
      message_of([] { dense_tensor<float, extents<dynamic>>(extents<dynamic>(1025), file_block(4096)); })));
}

TEST_CASE("memory that has nowhere to go keeps its contents when it is evicted") {
  memory_block b(std::size_t(4) << 20);
  std::memset(b.data(), 7, b.size());
  b.evict(0, b.size());
  CHECK(b.data()[b.size() - 1] == std::byte{7});
}

TEST_CASE("an arena of blocks from a file") {
  scratch_folder const folder;
  arena a(4096);
  a.take_blocks_from([&](std::size_t bytes) { return file_block(bytes, folder.path); });
  int* const p = a.allocate<int>(10'000);
  p[9'999] = 5;
  a.evict();
  CHECK(p[9'999] == 5);
  CHECK(a.system_allocations() == 1);
}

TEST_CASE("a folder that is not there, and a disk without room, are named with the bytes") {
  scratch_folder const folder;
  auto const check = [](std::string const& message, std::string const& where, std::string const& bytes) {
    CAPTURE(message);
    CHECK(is_one_sentence(message));
    CHECK(message.find(where) != std::string::npos);
    CHECK(message.find(bytes + " bytes") != std::string::npos);
  };
  check(message_of([&] { file_block(12345, folder / "none"); }), (folder / "none").string(), "12345");
  std::size_t const exabyte = std::size_t(1) << 60;
  check(message_of([&] { file_block(exabyte, folder.path); }), folder.path.string(), std::to_string(exabyte));
  CHECK(folder.count() == 0);
}
