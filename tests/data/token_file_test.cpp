// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/data/token_file.hpp>

TEST_CASE("token_file reads raw 16-bit tokens, small and mapped") {
  scratch_folder const folder;
  for (std::size_t n : {std::size_t(1), std::size_t(7), std::size_t(50000)}) {
    std::vector<std::uint16_t> tokens(n);
    for (std::size_t i = 0; i < n; ++i) tokens[i] = std::uint16_t(i * 40503u);
    folder.write("a.bin", {reinterpret_cast<char const*>(tokens.data()), 2 * n});
    tenon::token_file const f(folder / "a.bin");
    REQUIRE(f.size() == tenon::index_t(n));
    std::vector<std::int32_t> out(n, -1);
    f.copy(0, out);
    for (std::size_t i = 0; i < n; ++i) REQUIRE(out[i] == tokens[i]);
    f.copy(tenon::index_t(n) - 1, std::span(out).first(1));
    CHECK(out[0] == tokens[n - 1]);
    CHECK(is_one_sentence(message_of([&] { f.copy(1, out); })));
  }
}

TEST_CASE("token_file names the file and what is wrong in it") {
  scratch_folder const folder;
  folder.write("odd", "abc");
  folder.write("empty", "");
  folder.write("large", std::string("\x01\x00\xff\x00", 4));
  std::vector<std::int32_t> out(2);
  CHECK(message_of([&] { tenon::token_file f(folder / "odd"); }).find("3 bytes, which is no whole number") !=
        std::string::npos);
  CHECK(message_of([&] { tenon::token_file f(folder / "empty"); }).find("is empty") != std::string::npos);
  CHECK(message_of([&] { tenon::token_file(folder / "large", 100).copy(0, out); }) ==
        (folder / "large").string() +
            ": token 255 at position 1 is not in the vocabulary of 100. Fix: use the model that the tokens are for.");
  CHECK(is_one_sentence(message_of([&] { tenon::token_file f(folder / "large", 65537); })));
}
