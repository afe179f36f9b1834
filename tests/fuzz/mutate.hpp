// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

/// Changes a text a little, deterministically: bits, bytes, cuts, copies, and pieces that parsers stumble over.
class mutator {
 public:
  explicit mutator(std::uint32_t seed) : random(seed) {}

  std::string operator()(std::string s) {
    for (std::uint32_t n = 1 + below(4); n; --n) once(s);
    return s;
  }
  std::uint32_t below(std::size_t n) { return n ? random() % std::uint32_t(n) : 0; }

 private:
  void once(std::string& s) {
    static constexpr std::string_view pieces[] = {"{",
                                                  "}",
                                                  "[",
                                                  "]",
                                                  ",",
                                                  ":",
                                                  "\"",
                                                  "\\",
                                                  "\\u0000",
                                                  "\\ud800",
                                                  "null",
                                                  "true",
                                                  "-",
                                                  "-1",
                                                  "0",
                                                  "1e9",
                                                  "0.5",
                                                  "00",
                                                  "1",
                                                  "2147483648",
                                                  "4294967296",
                                                  "9223372036854775807",
                                                  "9223372036854775808",
                                                  "18446744073709551615",
                                                  "18446744073709551616",
                                                  "\"dtype\":\"F32\",",
                                                  "\"shape\":[],",
                                                  "\"data_offsets\":[0,0]",
                                                  "\"__metadata__\":{},",
                                                  "\"F4\"",
                                                  "\"a\":",
                                                  "[[[[[[[[",
                                                  "{\"\":{\"\":",
                                                  "\xff",
                                                  "\xc3",
                                                  "\xed\xa0\x80",
                                                  " ",
                                                  "\n",
                                                  "nan"};
    std::size_t const at = below(s.size() + 1);
    switch (below(8)) {
      case 0:
        if (!s.empty()) s[at % s.size()] = char(s[at % s.size()] ^ (1 << below(8)));
        break;
      case 1:
        if (!s.empty()) s[at % s.size()] = char(random());
        break;
      case 2: s.erase(at, 1 + below(16)); break;
      case 3: s.resize(at); break;
      case 4: s.insert(at, s.substr(below(s.size() + 1), below(40))); break;
      case 5: s.insert(at, pieces[below(std::size(pieces))]); break;
      case 6: {  // a number becomes another one
        auto const digit =
            std::find_if(s.begin() + std::ptrdiff_t(at), s.end(), [](char c) { return c >= '0' && c <= '9'; });
        auto const end = std::find_if(digit, s.end(), [](char c) { return c < '0' || c > '9'; });
        s.replace(digit, end, pieces[13 + below(12)]);
        break;
      }
      default: {  // two pieces change places
        std::size_t const other = below(s.size() + 1), n = 1 + below(12);
        std::string const a = s.substr(at, n), b = s.substr(other, n);
        s.replace(at, a.size(), b);
        if (other <= s.size()) s.replace(other, std::min(b.size(), s.size() - other), a);
      }
    }
  }
  std::mt19937 random;
};
