// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What is done to a text before it is cut into pieces.   @test tests/text/normalizer_test.cpp
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/text/normalize.hpp>
#include <tenon/text/pattern.hpp>
#include <tenon/text/unicode.hpp>
#include <tenon/text/utf8.hpp>

namespace tenon::text {

/// One thing done to a text.
struct normalization {
  enum class step {
    nfc,               ///< Unicode's normal form C
    nfd,               ///< Unicode's normal form D
    lower_case,        ///< capital letters become small ones
    drop_accents,      ///< marks that take no room go
    drop_marks,        ///< all marks go
    clean,             ///< control characters go, every blank is U+0020 (as BERT has it)
    space_ideographs,  ///< a blank on both sides of each (as BERT has it)
    replace,           ///< matches of `where` become `to`
    prepend,           ///< `to` before a text that is not empty
    strip_left,        ///< blanks at the beginning go
    strip_right,       ///< blanks at the end go
    charsmap           ///< SentencePiece's compiled replacements, `to`
  };
  step what;
  pattern where = {};
  std::string to = {};
};

namespace detail {

/// SentencePiece's compiled map: a double array trie, and the replacements, each with a zero at its end.
class compiled_map {
 public:
  explicit compiled_map(std::string_view bytes) {
    std::uint32_t size = 0;
    if (bytes.size() >= 4) std::memcpy(&size, bytes.data(), 4);
    if (bytes.size() < 4 || size > bytes.size() - 4) return;  // matches nothing
    trie = bytes.substr(4, size);
    texts = bytes.substr(4 + size);
  }
  /// The longest replacement at the text's beginning: how many bytes it takes, and what they become. 0: there is none.
  std::size_t match(std::string_view text, std::string_view& replacement) const {
    std::size_t longest = 0;
    std::uint32_t node = 0, unit = 0;
    if (!read(node, unit)) return 0;
    node ^= offset(unit);
    for (std::size_t i = 0; i < text.size(); ++i) {
      node ^= byte_at(text, i);
      if (!read(node, unit) || (unit & 0x800000ff) != byte_at(text, i)) break;
      node ^= offset(unit);
      std::uint32_t value = 0;
      if (!(unit >> 8 & 1) || !read(node, value) || (value & 0x7fffffff) >= texts.size()) continue;
      longest = i + 1;
      replacement = texts.substr(value & 0x7fffffff);
      replacement = replacement.substr(0, replacement.find('\0'));
    }
    return longest;
  }

 private:
  static std::uint32_t offset(std::uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }
  bool read(std::uint32_t node, std::uint32_t& unit) const {
    if (std::size_t(node) >= trie.size() / 4) return false;
    std::memcpy(&unit, trie.data() + std::size_t(node) * 4, 4);
    return true;
  }
  std::string_view trie, texts;
};

inline bool is_ideograph(char32_t c) {
  constexpr std::pair<char32_t, char32_t> ranges[] = {{0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},
                                                      {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f},
                                                      {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f}};
  if (c < 0x3400) return false;
  for (auto const& [first, last] : ranges)
    if (c >= first && c <= last) return true;
  return false;
}

inline bool is_ascii(std::string_view s) {
  std::uint8_t all = 0;
  for (char const c : s) all |= static_cast<std::uint8_t>(c);
  return all < 0x80;
}

/// The text after one step; `changed` receives it where it is another one.
inline std::string_view normalized(normalization const& n, std::string_view s, std::string& changed) {
  using step = normalization::step;
  auto const each = [&](auto&& f) {
    changed.reserve(s.size());
    for_each_code_point(s, [&](code_point c) { f(c.value); });
    return std::string_view(changed);
  };
  auto const keep = [&](char32_t c) { append_utf8(changed, c); };
  switch (n.what) {
    case step::nfc: return is_surely_nfc(s) ? s : std::string_view(changed = to_nfc(s));
    case step::nfd: return is_ascii(s) ? s : std::string_view(changed = to_nfd(s));
    case step::lower_case:
      return each([&](char32_t c) {
        keep(c == 0x130 ? 'i' : lower_case(c));
        if (c == 0x130) keep(0x307);  // the one capital whose small letter is two code points
      });
    case step::drop_accents:
    case step::drop_marks: {
      std::uint32_t const dropped = n.what == step::drop_marks ? mark_categories : category_bit(category::Mn);
      return is_ascii(s) ? s : each([&](char32_t c) {
        if (c < 0x300 || !in_categories(c, dropped)) keep(c);
      });
    }
    case step::clean:
      return each([&](char32_t c) {
        constexpr std::uint32_t dropped = other_categories & ~category_bit(category::Cn);
        bool const blank = c == '\t' || c == '\n' || c == '\r';
        if (c == replacement_character || (!blank && in_categories(c, dropped))) return;
        keep(blank || is_space(c) ? ' ' : c);
      });
    case step::space_ideographs:
      return is_ascii(s) ? s : each([&](char32_t c) {
        bool const apart = is_ideograph(c);
        if (apart) changed += ' ';
        keep(c);
        if (apart) changed += ' ';
      });
    case step::replace:
      for (std::size_t at = 0;;) {
        auto const [begin, end] = n.where.search(s, at);
        if (begin == s.size() && at == 0) return s;
        changed += s.substr(at, begin - at);
        if (begin == s.size()) return changed;
        changed += n.to;
        at = end;
      }
    case step::prepend: return s.empty() ? s : std::string_view((changed = n.to) += s);
    case step::strip_left:
      while (!s.empty() && is_space(decode_utf8(s, 0).value)) s.remove_prefix(decode_utf8(s, 0).bytes);
      return s;
    case step::strip_right:
      while (!s.empty() && is_space(decode_utf8(s, previous_utf8(s, s.size())).value))
        s = s.substr(0, previous_utf8(s, s.size()));
      return s;
    case step::charsmap: {
      compiled_map const map(n.to);
      for (std::size_t i = 0; i < s.size();) {
        std::string_view replacement;
        if (std::size_t const bytes = map.match(s.substr(i), replacement)) {
          changed += replacement;
          i += bytes;
          continue;
        }
        code_point const c = decode_utf8(s, i);
        keep(c.value);
        i += c.bytes;
      }
      return changed;
    }
  }
  return s;
}

}  // namespace detail

/// The text after all steps. A text that they change lies in `owned`.
inline std::string_view normalize(std::vector<normalization> const& steps, std::string_view s,
                                  std::deque<std::string>& owned) {
  for (auto const& n : steps) {
    std::string changed;
    std::string_view const now = detail::normalized(n, s, changed);
    if (now.data() == changed.data()) s = owned.emplace_back(std::move(changed));
    else s = now;
  }
  return s;
}

}  // namespace tenon::text
