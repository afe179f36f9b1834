// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Writing JSON text by hand: strings and numbers. Reading JSON is another matter (io/safetensors.hpp).
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace tenon {

/// Appends `s` as a JSON string, quotes included. Bytes from 0x80 on go out as they are (UTF-8).
/// @test tests/core/json_text_test.cpp
inline void append_json_string(std::string& out, std::string_view s) {
  constexpr char const* digits = "0123456789abcdef";
  out += '"';
  for (char const c : s) {
    auto const byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') (out += '\\') += c;
    else if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (c == '\r') out += "\\r";
    else if (byte < 0x20) ((out += "\\u00") += digits[byte >> 4]) += digits[byte & 15];
    else out += c;
  }
  out += '"';
}

/// Appends the shortest decimal text that reads back as the same number; a NaN or an infinity, which JSON does not
/// know, as null. The text does not depend on the locale.
template <class Number>
  requires(std::integral<Number> || std::floating_point<Number>)
void append_json_number(std::string& out, Number value) {
  if constexpr (std::floating_point<Number>) {
    if (!std::isfinite(value)) {
      out += "null";
      return;
    }
  }
  char text[40];
  auto const r = std::to_chars(text, text + sizeof text, value);
  out.append(text, r.ptr);
}

}  // namespace tenon
