// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <functional>
#include <string_view>
#include <vector>

#include <tenon/text/utf8.hpp>
#include <tenon/text/vocabulary.hpp>

namespace tenon::text::detail {

/// Finds added tokens in a text: the leftmost, and of those that begin there the longest.
class added_tokens {
 public:
  void add(std::string_view token) {
    if (token.empty()) return;
    none = false;
    std::uint8_t const first = byte_at(token, 0);
    if (token.size() == 1) singles[first] = true;
    else pairs[std::size_t(first) << 8 | byte_at(token, 1)] = true;
    begins[first] = true;
    auto& l = lengths[first];
    auto const place = std::lower_bound(l.begin(), l.end(), token.size(), std::greater<>());
    if (place == l.end() || *place != token.size()) l.insert(place, token.size());
  }
  struct found {
    std::size_t begin = 0, end = 0;
    token_id id = no_token;
  };
  /// @param id_of  the token that a slice is, or no_token when it is none that is looked for
  template <class IdOf>
  found find(std::string_view text, std::size_t from, IdOf&& id_of) const {
    for (std::size_t i = from; i < text.size() && !none; ++i) {
      std::uint8_t const first = byte_at(text, i);
      if (!begins[first]) continue;
      bool const pair = i + 1 < text.size() && pairs[std::size_t(first) << 8 | byte_at(text, i + 1)];
      if (!pair && !singles[first]) continue;
      for (std::size_t const length : lengths[first]) {
        if (length > text.size() - i || (length > 1 && !pair)) continue;
        if (token_id const id = id_of(text.substr(i, length)); id != no_token) return {i, i + length, id};
      }
    }
    return {text.size(), text.size(), no_token};
  }

 private:
  bool none = true;
  std::array<bool, 256> begins{}, singles{};
  std::bitset<65536> pairs;
  std::array<std::vector<std::size_t>, 256> lengths;  // descending
};

}  // namespace tenon::text::detail
