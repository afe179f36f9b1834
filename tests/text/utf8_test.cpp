// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <tenon/text/utf8.hpp>

using namespace tenon::text;

TEST_CASE("utf8: every code point is written and read back, and found from its end") {
  for (char32_t c = 1; c < 0x110000; c += c < 0x3000 ? 1 : 97) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::string s = "x";
    append_utf8(s, c);
    code_point const p = decode_utf8(s, 1);
    REQUIRE(p.value == c);
    REQUIRE(p.bytes == s.size() - 1);
    REQUIRE(p.valid());
    REQUIRE(previous_utf8(s, s.size()) == 1);
  }
}
TEST_CASE("utf8: what is wrong counts byte by byte") {
  // Overlong, surrogate, too large, cut off, a stray continuation.
  for (std::string const s : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x96", "\x80", "\xff"}) {
    std::size_t count = 0;
    for_each_code_point(s, [&](code_point c) { count += !c.valid(); });
    CHECK(count == s.size());
    CHECK(previous_utf8(s, s.size()) == s.size() - 1);
  }
  CHECK(decode_utf8("\xef\xbf\xbd", 0).valid());  // the real U+FFFD
}
