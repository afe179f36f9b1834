// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include <tenon/text/utf8.hpp>

namespace tenon::text::detail {

/// GPT-2's alphabet: the letter of each byte, so that every token is readable text.
struct byte_alphabet {
  std::array<char32_t, 256> letters{};
  std::array<std::int16_t, 324> bytes{};  ///< of each letter; -1: no letter of the alphabet
  byte_alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (char32_t b = 0; b < 256; ++b) {
      bool const visible = (b > ' ' && b < 0x7f) || (b > 0xa0 && b != 0xad);
      letters[b] = visible ? b : next++;
      bytes[letters[b]] = std::int16_t(b);
    }
  }
  static byte_alphabet const& get() {
    static byte_alphabet const it;
    return it;
  }
  /// The bytes that a token stands for; a token with other letters stands for itself.
  void append_bytes(std::string& out, std::string_view token) const {
    std::size_t const before = out.size();
    for (std::size_t i = 0; i < token.size();) {
      code_point const c = decode_utf8(token, i);
      if (c.value >= bytes.size() || bytes[c.value] < 0) {
        out.resize(before);
        out += token;
        return;
      }
      out += char(bytes[c.value]);
      i += c.bytes;
    }
  }
};

}  // namespace tenon::text::detail
