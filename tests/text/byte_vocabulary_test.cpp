// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include <tenon/text/byte_vocabulary.hpp>
#include <tenon/text/tokenizer.hpp>

TEST_CASE("every byte is its own token") {
  tenon::text::tokenizer const bytes(tenon::text::byte_vocabulary());
  std::string text = "ab \xc3\xa9\n";
  for (int b = 1; b < 256; ++b) text += char(b);
  std::vector<std::int32_t> expected;
  for (char c : text) expected.push_back(static_cast<unsigned char>(c));
  CHECK(bytes.encode(text, {.parse_special = false}) == expected);
  std::string back;
  for (auto const t : expected) bytes.append_bytes(back, t);
  CHECK(back == text);
  CHECK(bytes.size() == 256);
  CHECK(bytes.is_special(bytes.parts().end));
}
