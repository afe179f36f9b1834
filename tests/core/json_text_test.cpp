// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>

#include <tenon/core/json_text.hpp>

namespace {

std::string quoted(std::string_view s) {
  std::string out;
  tenon::append_json_string(out, s);
  return out;
}
std::string number(auto v) {
  std::string out;
  tenon::append_json_number(out, v);
  return out;
}

}  // namespace

TEST_CASE("JSON strings escape what must be, and nothing else") {
  CHECK(quoted("") == "\"\"");
  CHECK(quoted("a\"b\\c/d") == "\"a\\\"b\\\\c/d\"");
  CHECK(quoted("\n\t\r") == "\"\\n\\t\\r\"");
  CHECK(quoted(std::string_view("\0\x1f\x7f", 3)) == "\"\\u0000\\u001f\x7f\"");
  CHECK(quoted("\xc3\xa9") == "\"\xc3\xa9\"");
}

TEST_CASE("JSON numbers are the shortest that read back as the same") {
  CHECK(number(0.1) == "0.1");
  CHECK(number(0.1f) == "0.1");
  CHECK(number(1e100) == "1e+100");
  CHECK(number(-3) == "-3");
  CHECK(number(std::numeric_limits<std::uint64_t>::max()) == "18446744073709551615");
  CHECK(number(std::nan("")) == "null");
  CHECK(number(-INFINITY) == "null");
  for (double v : {1.0 / 3, 5e-324, 1.7976931348623157e308, -0.0, 123456789.123})
    CHECK(std::strtod(number(v).c_str(), nullptr) == v);
}
