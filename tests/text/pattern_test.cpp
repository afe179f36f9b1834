// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/text/cut_patterns.hpp>
#include <tenon/text/pattern.hpp>

using namespace tenon::text;

static std::vector<std::string> pieces(std::string_view expression, std::string_view text) {
  pattern const p(expression);
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    auto const [begin, end] = p.search(text, at);
    if (begin > at) out.push_back("-" + std::string(text.substr(at, begin - at)));
    if (end > begin) out.push_back(std::string(text.substr(begin, end - begin)));
    at = end;
  }
  return out;
}
using list = std::vector<std::string>;

TEST_CASE("pattern: the words of GPT-2, Llama 3 and Qwen") {
  CHECK(pieces(gpt2_pattern, "I'll  go 123,\n ok") == list{"I", "'ll", " ", " go", " 123", ",", "\n", " ok"});
  CHECK(pieces(llama3_pattern, "I'LL go12345!\r\n\n x") == list{"I", "'LL", " go", "123", "45", "!\r\n\n", " x"});
  CHECK(pieces(qwen2_pattern, "a12 \u00e9t\u00e9") == list{"a", "1", "2", " \u00e9t\u00e9"});
  CHECK(pieces(llama3_pattern, "it'\u017f") == list{"it", "'\u017f"});  // the long s is an s without regard to case
}
TEST_CASE("pattern: each element") {
  CHECK(pieces("a{2,3}", "aaaaaa a") == list{"aaa", "aaa", "- a"});
  CHECK(pieces("a+?b", "aab") == list{"aab"});
  CHECK(pieces("a++a", "aaa") == list{"-aaa"});
  CHECK(pieces("(?:ab|a)(?=c)", "abcac") == list{"ab", "-c", "a", "-c"});
  CHECK(pieces("(ab)*c", "ababc") == list{"ababc"});
  CHECK(pieces("(ab){1,2}", "ababab") == list{"abab", "ab"});
  CHECK(pieces("^a|a$", "aaa") == list{"a", "-a", "a"});
  CHECK(pieces("[^a-c\\]]", "ad]e") == list{"-a", "d", "-]", "e"});
  CHECK(pieces("[x[yz]]+", "axyzb") == list{"-a", "xyz", "-b"});
  CHECK(pieces("(?=\\p{L})[^a-z]", "aB1") == list{"-a", "B", "-1"});
  CHECK(pieces("(?!a)\\w", "ab") == list{"-a", "b"});
  CHECK(pieces("\\x41\\u{1f600}", "A\U0001f600") == list{"A\U0001f600"});
  CHECK(pieces("\\s+(?!\\S)|\\s+", "a   b") == list{"-a", "  ", " ", "-b"});
}
TEST_CASE("pattern: what is wrong or not supported is refused with a sentence") {
  for (std::string const wrong : {"(", ")", "[a", "*", "a**", "(?<=a)b", "\\1", "\\p{Han}", "a{3,2}", "a{5000}",
                                  "[b-a]", "(?P<x>a)", "\\", "[[:alpha:]]", "(((a{50}b){50}){50}){50}"}) {
    CAPTURE(wrong);
    try {
      pattern const p(wrong);
      FAIL("accepted");
    } catch (tenon::argument_error const& e) {
      CHECK(is_one_sentence(e.what()));
    }
  }
  CHECK_THROWS_AS(pattern(std::string(5000, '(')), tenon::argument_error);
  CHECK_THROWS_AS(pattern("(a*)*b").match(std::string(100, 'a'), 0), tenon::argument_error);  // would never end
}
