// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <deque>
#include <string>
#include <vector>

#include <tenon/text/cut_patterns.hpp>
#include <tenon/text/normalizer.hpp>

using namespace tenon::text;

TEST_CASE("normal forms: composition, order of marks, Hangul, exclusions, bytes that are no UTF-8") {
  CHECK(to_nfc("e\u0301") == "\u00e9");
  CHECK(to_nfd("\u00e9") == "e\u0301");
  CHECK(to_nfc("q\u0307\u0323") == "q\u0323\u0307");
  CHECK(to_nfc("\u1112\u1161\u11ab") == "\ud55c");
  CHECK(to_nfd("\ud55c") == "\u1112\u1161\u11ab");
  CHECK(to_nfc("\u212b") == "\u00c5");
  CHECK(to_nfc("\u0958") == "\u0915\u093c");         // excluded from composition
  CHECK(to_nfc("a\u0328\u0301") == "\u0105\u0301");  // the second mark is not blocked, but does not compose
  CHECK(to_nfc("\xff"
               "e\u0301") == "\xff\u00e9");
  CHECK(is_surely_nfc("abc \u00e9 \u4e00"));
  CHECK_FALSE(is_surely_nfc("e\u0301"));
}
TEST_CASE("normalizer: BERT's steps") {
  std::deque<std::string> owned;
  CHECK(normalize(detail::bert_normalizations(true, true, true, true), "H\u00c9llo\t\u4e2d\u0001\ufffdX", owned) ==
        "hello  \u4e2d x");
  CHECK(normalize({}, "same", owned) == "same");
}
TEST_CASE("normalizer: replace, prepend, strip") {
  using step = normalization::step;
  std::deque<std::string> owned;
  std::vector<normalization> const steps = {{step::replace, pattern(" {2,}"), " "},
                                            {step::strip_left},
                                            {step::strip_right},
                                            {step::prepend, {}, "_"}};
  CHECK(normalize(steps, "  a   b ", owned) == "_a b");
  CHECK(normalize(steps, "   ", owned) == "");
}
TEST_CASE("normalizer: a compiled map that is damaged changes nothing") {
  std::deque<std::string> owned;
  std::vector<std::string> const maps{"", "abc", "\xff\xff\xff\xff", std::string("\4\0\0\0\0\4\0\0", 8)};
  for (std::string const& map : maps)
    CHECK(normalize({{normalization::step::charsmap, {}, map}}, "ab\u00e9", owned) == "ab\u00e9");
}
