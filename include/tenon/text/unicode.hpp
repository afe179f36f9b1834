// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a code point is: its category, its small letter.   @test tests/text/unicode_test.cpp
#include <algorithm>
#include <cstdint>
#include <iterator>

#include <tenon/text/category_tables.hpp>

namespace tenon::text {

/// Unicode's general categories, in the order of the tables.
enum class category : std::uint8_t {
  // clang-format off
  Lu, Ll, Lt, Lm, Lo, Mn, Mc, Me, Nd, Nl, No, Pc, Pd, Ps, Pe, Pi, Pf, Po, Sm, Sc, Sk, So, Zs, Zl, Zp, Cc, Cf, Cs, Co, Cn
  // clang-format on
};

inline category category_of(char32_t c) {
  auto const* const next =
      std::upper_bound(std::begin(detail::category_ranges), std::end(detail::category_ranges), c << 5 | 31);
  return category(next[-1] & 31);  // the first range begins at 0
}

/// Sets of categories as bits.
inline constexpr std::uint32_t category_bit(category c) { return std::uint32_t(1) << unsigned(c); }
inline constexpr std::uint32_t letter_categories = 0x1f, mark_categories = 0xe0, number_categories = 0x700,
                               punctuation_categories = 0x3f800, symbol_categories = 0x3c0000,
                               separator_categories = 0x1c00000, other_categories = 0x3e000000;

inline bool in_categories(char32_t c, std::uint32_t set) { return set >> unsigned(category_of(c)) & 1; }

/// Unicode's property White_Space.
inline bool is_space(char32_t c) {
  return c < 0x80 ? c == ' ' || (c >= 9 && c <= 13) : c == 0x85 || in_categories(c, separator_categories);
}

/// The small letter of a capital one; other code points stay.
inline char32_t lower_case(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  std::uint32_t const* range = detail::lower_ranges;  // groups of four: first, last, step, difference
  for (std::size_t groups = std::size(detail::lower_ranges) / 4; groups > 0;) {
    std::size_t const half = groups / 2;
    if (range[4 * half + 1] < c) range += 4 * (half + 1), groups -= half + 1;
    else groups = half;
  }
  if (range != std::end(detail::lower_ranges) && c >= range[0] && (c - range[0]) % range[2] == 0) return c + range[3];
  return c;
}

/// The capital letter of a small one, where it has one of its own.
inline char32_t upper_case(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
  for (std::size_t i = 0; i < std::size(detail::lower_ranges); i += 4) {
    char32_t const first = detail::lower_ranges[i], last = detail::lower_ranges[i + 1],
                   capital = c - detail::lower_ranges[i + 3];
    if (capital >= first && capital <= last && (capital - first) % detail::lower_ranges[i + 2] == 0) return capital;
  }
  return c;
}

}  // namespace tenon::text
