// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/text/unicode.hpp>

using namespace tenon::text;

TEST_CASE("unicode: categories, blanks and small letters") {
  CHECK(category_of(0) == category::Cc);
  CHECK(category_of('A') == category::Lu);
  CHECK(category_of(0x1c5) == category::Lt);
  CHECK(category_of(0x4e00) == category::Lo);
  CHECK(category_of(0x9fff) == category::Lo);
  CHECK(category_of(0x301) == category::Mn);
  CHECK(category_of(0x661) == category::Nd);
  CHECK(category_of(0x2167) == category::Nl);
  CHECK(category_of(0xbd) == category::No);
  CHECK(category_of(0x2581) == category::So);
  CHECK(category_of(0x1f600) == category::So);
  CHECK(category_of(0x10ffff) == category::Cn);
  CHECK(category_of(0x10fffd) == category::Co);
  CHECK(is_space(0x85));
  CHECK(is_space(0x3000));
  CHECK_FALSE(is_space(0x200b));
  CHECK_FALSE(is_space(0x1c));
  CHECK(lower_case('Z') == 'z');
  CHECK(lower_case(0xc9) == 0xe9);
  CHECK(lower_case(0x100) == 0x101);
  CHECK(lower_case(0x101) == 0x101);
  CHECK(lower_case(0x3a3) == 0x3c3);
  CHECK(lower_case(0x1e9e) == 0xdf);
  CHECK(upper_case(0xe9) == 0xc9);
  CHECK(upper_case(0x101) == 0x100);
  CHECK(upper_case('!') == '!');
}
