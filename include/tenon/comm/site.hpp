// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Where in a program a thread is, in words: what the hang watch names calls by.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <span>
#include <string_view>

#include <tenon/core/view.hpp>

namespace tenon::comm {

/// A thread's place: names and numbers from outer to inner, as in "backward 3, layer 5, mlp".
struct call_site {
  struct part {
    char const* name;  // outlives all calls from here
    index_t number;    // negative: none
  };
  static constexpr std::size_t most_parts = 4;  // what is further in is not named

  std::array<part, most_parts> parts{};
  std::size_t depth = 0;

  /// Into `text`, cut to its size and ended by zero; returns what was written.
  std::string_view write(std::span<char> text) const {
    char *at = text.data(), *const end = at + text.size() - 1;
    auto const add = [&](std::string_view s) {
      at = std::copy_n(s.begin(), std::min(s.size(), std::size_t(end - at)), at);
    };
    for (std::size_t i = 0; i < std::min(depth, most_parts); ++i) {
      if (i) add(", ");
      add(parts[i].name);
      if (parts[i].number < 0) continue;
      char digits[20];
      add(" ");
      add({digits, std::size_t(std::to_chars(digits, digits + sizeof digits, parts[i].number).ptr - digits)});
    }
    *at = 0;
    return {text.data(), std::size_t(at - text.data())};
  }
};

namespace detail {
inline thread_local constinit call_site current_site{};
}

/// This thread is at a place, from construction to destruction. All ranks of a group make a collective call from places
/// of the same name and number: the hang watch reports those that do not. It is a few stores, watched or not.
///
///     tenon::comm::site const here("layer", 5);
/// @test tests/comm/watch_test.cpp
class site {
 public:
  explicit site(char const* name, index_t number = -1) {
    auto& here = detail::current_site;
    if (here.depth < call_site::most_parts) here.parts[here.depth] = {name, number};
    ++here.depth;
  }
  ~site() { --detail::current_site.depth; }
  site(site const&) = delete;
  site& operator=(site const&) = delete;
};

}  // namespace tenon::comm
