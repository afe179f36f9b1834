// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fuzz/gguf_check.hpp>
#include <fuzz/mutate.hpp>
#include <io/gguf_samples.hpp>
#include <tenon/io/mapped_file.hpp>

namespace {

/// Exactly as many bytes as there are, so that a sanitizer sees the first one beyond.
std::string check_copy(std::string const& file, bool* opened = nullptr) {
  std::unique_ptr<std::byte[]> const copy(new std::byte[file.size()]);
  std::memcpy(copy.get(), file.data(), file.size());
  return check_gguf({copy.get(), file.size()}, opened);
}
/// Somewhere a number becomes one that readers stumble over.
void put_number(mutator& mutate, std::string& file) {
  constexpr std::uint64_t numbers[] = {0,
                                       1,
                                       2,
                                       4,
                                       7,
                                       8,
                                       9,
                                       10,
                                       12,
                                       13,
                                       31,
                                       32,
                                       64,
                                       255,
                                       256,
                                       65535,
                                       65536,
                                       1u << 31,
                                       0xffffffff,
                                       1ull << 32,
                                       1ull << 61,
                                       1ull << 62,
                                       (1ull << 63) - 1,
                                       1ull << 63,
                                       ~0ull - 7,
                                       ~0ull};
  std::uint64_t const number = numbers[mutate.below(std::size(numbers))];
  std::size_t const width = mutate.below(2) ? 8 : 4;
  if (file.size() > width) std::memcpy(file.data() + mutate.below(file.size() - width), &number, width);
}

}  // namespace

TEST_CASE("gguf: mutated files are refused with a sentence or hold every promise") {
  std::vector<std::string> const seeds = {
      sample_gguf(),
      gguf_bytes().head(1, 1).key("general.alignment", 4).u32(64).tensor("t", {32, 2}, 2, 0).pad(64).data(36).out,
      gguf_bytes().head(2, 0).tensor("a", {4}, 0, 0).tensor("b", {256, 2}, 12, 32).pad().data(320).out};
  mutator mutate(20261126);
  int opened_count = 0, count = 0;
  auto const begin = std::chrono::steady_clock::now();
  // A fixed sequence; slow builds do less of it.
  while (count < 200000 && std::chrono::steady_clock::now() - begin < std::chrono::seconds(2)) {
    std::string file = seeds[mutate.below(seeds.size())];
    std::uint32_t const way = mutate.below(4);
    if (way != 0) put_number(mutate, file);
    if (way < 2) file = mutate(file);
    bool opened = false;
    std::string const wrong = check_copy(file, &opened);
    opened_count += opened;
    ++count;
    if (!wrong.empty()) FAIL("input " << count << " gives " << wrong);
  }
  MESSAGE(count << " inputs, " << opened_count << " of them valid");
  CHECK(count > 500);
  CHECK(opened_count > count / 20);  // the mutations are not all nonsense
}

TEST_CASE("gguf: what longer searches found worth keeping") {
  int count = 0;
  for (auto const& entry : std::filesystem::directory_iterator(TENON_SOURCE_DIR "/tests/fuzz/corpus/gguf")) {
    tenon::io::mapped_file const file(entry.path());
    CAPTURE(entry.path().string());
    CHECK(check_copy(std::string(reinterpret_cast<char const*>(file.bytes().data()), file.size())) == "");
    ++count;
  }
  CHECK(count > 0);
}
