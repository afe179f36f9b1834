// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file UTF-8, one code point at a time. A byte that begins no well-formed sequence counts as one code point of its own,
/// U+FFFD.   @test tests/text/utf8_test.cpp
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tenon::text {

/// What a file says, as messages show it: on one line.
inline std::string on_one_line(std::string s) {
  for (char& c : s)
    if (static_cast<unsigned char>(c) < 0x20) c = '?';
  return s;
}

inline constexpr char32_t replacement_character = 0xfffd;

/// A code point and how many bytes of the text it takes.
struct code_point {
  char32_t value = 0;
  std::uint32_t bytes = 0;
  /// False where the text is not UTF-8. The text may have a real U+FFFD as well: that one takes 3 bytes.
  bool valid() const { return value != replacement_character || bytes == 3; }
};

namespace detail {

inline std::uint8_t byte_at(std::string_view s, std::size_t i) { return static_cast<std::uint8_t>(s[i]); }

/// Bytes of the sequence that `first` begins; 0 when it begins none.
inline std::uint32_t sequence_bytes(std::uint8_t first) {
  return first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
}

/// Of the sequence that begins at `at`, how many bytes are there and right; all of them where it is whole.
inline std::uint32_t right_bytes(std::string_view s, std::size_t at) {
  std::uint8_t const first = byte_at(s, at);
  std::uint32_t const bytes = sequence_bytes(first);
  for (std::uint32_t k = 1; k < bytes; ++k) {
    // No overlong forms, no surrogates, nothing above U+10FFFF: the second byte shows it.
    unsigned const low = k > 1 ? 0x80 : first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned const high = k > 1 ? 0xbf : first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (at + k >= s.size() || byte_at(s, at + k) < low || byte_at(s, at + k) > high) return k;
  }
  return bytes;
}

}  // namespace detail

/// The code point at byte `at`, which must be within the text.
inline code_point decode_utf8(std::string_view s, std::size_t at) {
  std::uint8_t const first = detail::byte_at(s, at);
  if (first < 0x80) return {first, 1};
  std::uint32_t const bytes = detail::sequence_bytes(first);
  if (!bytes || detail::right_bytes(s, at) != bytes) return {replacement_character, 1};
  char32_t value = first & (0x7fu >> bytes);
  for (std::uint32_t k = 1; k < bytes; ++k) value = value << 6 | (detail::byte_at(s, at + k) & 0x3fu);
  return {value, bytes};
}

/// Where the code point that ends at byte `end` begins; `end` is above 0 and itself where one ends.
inline std::size_t previous_utf8(std::string_view s, std::size_t end) {
  if (detail::byte_at(s, end - 1) < 0x80) return end - 1;
  for (std::size_t back = 2; back <= 4 && back <= end; ++back)
    if (detail::sequence_bytes(detail::byte_at(s, end - back)))
      return decode_utf8(s, end - back).bytes == back ? end - back : end - 1;
  return end - 1;
}

inline void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) out += char(c);
  else if (c < 0x800) (out += char(0xc0 | c >> 6)) += char(0x80 | (c & 0x3f));
  else if (c < 0x10000) ((out += char(0xe0 | c >> 12)) += char(0x80 | (c >> 6 & 0x3f))) += char(0x80 | (c & 0x3f));
  else
    (((out += char(0xf0 | c >> 18)) += char(0x80 | (c >> 12 & 0x3f))) += char(0x80 | (c >> 6 & 0x3f))) +=
        char(0x80 | (c & 0x3f));
}

/// Calls `f(code_point)` for each code point in order.
template <class F>
void for_each_code_point(std::string_view s, F&& f) {
  for (std::size_t i = 0; i < s.size();) {
    code_point const c = decode_utf8(s, i);
    f(c);
    i += c.bytes;
  }
}

}  // namespace tenon::text
