// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Unicode's canonical normal forms.   @source Unicode Standard Annex 15   @test tests/text/normalizer_test.cpp
#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/text/normalization_tables.hpp>
#include <tenon/text/utf8.hpp>

namespace tenon::text {
namespace detail {

/// Hangul syllables are computed, not listed.
inline constexpr char32_t hangul_first = 0xac00, hangul_count = 11172, jamo_l = 0x1100, jamo_v = 0x1161,
                          jamo_t = 0x11a7;

struct canonical_entry {
  std::uint32_t composed, first, second;
};
inline constexpr std::uint32_t composes_bit = 0x80000000;
inline constexpr std::size_t canonical_count = std::size(canonical_pairs) / 3;
inline canonical_entry canonical(std::size_t i) {
  return {canonical_pairs[3 * i], canonical_pairs[3 * i + 1], canonical_pairs[3 * i + 2]};
}

inline std::uint32_t combining_class(char32_t c) {
  if (c < 0x300) return 0;
  return std::upper_bound(std::begin(combining_ranges), std::end(combining_ranges), c << 8 | 255)[-1] & 255;
}

inline void append_decomposed(std::vector<char32_t>& out, char32_t c) {
  if (c >= hangul_first && c < hangul_first + hangul_count) {
    char32_t const s = c - hangul_first;
    out.push_back(jamo_l + s / 588);
    out.push_back(jamo_v + s % 588 / 28);
    if (s % 28) out.push_back(jamo_t + s % 28);
    return;
  }
  std::size_t low = 0, high = c < 0xc0 ? 0 : canonical_count;
  while (low < high) {
    std::size_t const middle = (low + high) / 2;
    if ((canonical(middle).composed & ~composes_bit) < c) low = middle + 1;
    else high = middle;
  }
  if (c < 0xc0 || low == canonical_count || (canonical(low).composed & ~composes_bit) != c) return out.push_back(c);
  append_decomposed(out, canonical(low).first);
  if (canonical(low).second) append_decomposed(out, canonical(low).second);
}

/// What the two compose to; 0 when they do not.
inline char32_t composed(char32_t a, char32_t b) {
  if (a >= jamo_l && a < jamo_l + 19 && b >= jamo_v && b < jamo_v + 21)
    return hangul_first + ((a - jamo_l) * 21 + (b - jamo_v)) * 28;
  if (a >= hangul_first && a < hangul_first + hangul_count && (a - hangul_first) % 28 == 0 && b > jamo_t &&
      b < jamo_t + 28)
    return a + (b - jamo_t);
  static std::vector<canonical_entry> const pairs = [] {
    std::vector<canonical_entry> all;
    for (std::size_t i = 0; i < canonical_count; ++i)
      if (canonical(i).composed & composes_bit) all.push_back(canonical(i));
    std::sort(all.begin(), all.end(),
              [](auto const& x, auto const& y) { return std::pair(x.first, x.second) < std::pair(y.first, y.second); });
    return all;
  }();
  auto const found = std::lower_bound(pairs.begin(), pairs.end(), std::pair<std::uint32_t, std::uint32_t>(a, b),
                                      [](auto const& x, auto const& y) { return std::pair(x.first, x.second) < y; });
  return found != pairs.end() && found->first == a && found->second == b ? found->composed & ~composes_bit : 0;
}

/// A byte that is not UTF-8 passes as this and its value.
inline constexpr char32_t no_code_point = 0x110000;

/// Decomposes, and puts marks into their canonical order.
inline std::vector<char32_t> decomposed(std::string_view s) {
  std::vector<char32_t> out;
  out.reserve(s.size());
  for (std::size_t i = 0; i < s.size();) {
    code_point const c = decode_utf8(s, i);
    append_decomposed(out, c.valid() ? c.value : no_code_point | byte_at(s, i));
    i += c.bytes;
  }
  for (std::size_t i = 0; i < out.size();) {
    std::size_t end = i;
    while (end < out.size() && combining_class(out[end])) ++end;
    std::stable_sort(out.begin() + std::ptrdiff_t(i), out.begin() + std::ptrdiff_t(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    i = end + 1;
  }
  return out;
}

inline std::string to_utf8(std::vector<char32_t> const& s) {
  std::string out;
  out.reserve(s.size());
  for (char32_t const c : s)
    if (c < no_code_point) append_utf8(out, c);
    else out += char(c & 0xff);
  return out;
}

}  // namespace detail

/// True when NFC surely leaves the text as it is; fast.
inline bool is_surely_nfc(std::string_view s) {
  bool safe = true;
  for (std::size_t i = 0; safe && i < s.size();) {
    if (detail::byte_at(s, i) < 0xcc) {  // below U+0300, or a byte that is not UTF-8
      ++i;
      continue;
    }
    code_point const c = decode_utf8(s, i);
    auto const* const next =
        std::upper_bound(std::begin(detail::nfc_unsafe_ranges), std::end(detail::nfc_unsafe_ranges), c.value);
    safe = (next - std::begin(detail::nfc_unsafe_ranges)) % 2 == 0;
    i += c.bytes;
  }
  return safe;
}

inline std::string to_nfd(std::string_view s) { return detail::to_utf8(detail::decomposed(s)); }

inline std::string to_nfc(std::string_view s) {
  std::vector<char32_t> text = detail::decomposed(s);
  constexpr std::size_t none = std::size_t(-1);
  std::size_t length = 0, starter = none;
  std::uint32_t last_class = 0;
  for (char32_t const c : text) {
    std::uint32_t const now = detail::combining_class(c);
    // What stands between the starter and this mark blocks it when its class is as high, or 0.
    bool const reaches = starter != none && (starter + 1 == length || (last_class < now && last_class != 0));
    if (char32_t const both = reaches ? detail::composed(text[starter], c) : 0) {
      text[starter] = both;
      continue;
    }
    if (now == 0) starter = length;
    last_class = now;
    text[length++] = c;
  }
  text.resize(length);
  return detail::to_utf8(text);
}

}  // namespace tenon::text
