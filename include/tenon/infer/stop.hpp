// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file When a text ends, and what of it may be shown meanwhile.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>

namespace tenon::infer {

struct stop_options {
  index_t max_new_tokens = 16;
  std::vector<std::int32_t> tokens{};  ///< end the text and are not part of it
  std::vector<std::string> strings{};  ///< end the text before them
};
enum class finish_reason { none, length, token, string };

/// Follows the text of one sequence, token by token, and withholds what may be the beginning of a stop string until it
/// is known not to be. What is shown depends on the bytes alone, not on how tokens cut them: the text ends where a stop
/// string is first complete, and of several that are complete there, before the longest.
/// @error argument_error for an empty stop string   @test tests/infer/stop_test.cpp
class stop_check {
 public:
  explicit stop_check(stop_options o) : options(std::move(o)) {
    for (auto const& s : options.strings)
      if (s.empty())
        throw argument_error(
            "tenon::infer::stop_check: a stop string is empty, it would end every text. Fix: drop it.");
  }
  /// One more token and the bytes it adds to the text. Returns the bytes that may be shown now, until the next call:
  /// all that are left, when the text ends with it.
  std::string_view push(std::int32_t token, std::string_view bytes) {
    ++count;
    if (std::find(options.tokens.begin(), options.tokens.end(), token) != options.tokens.end())
      return end(finish_reason::token);
    for (char const c : bytes) {
      withheld.push_back(c);
      std::size_t stop = 0;
      for (auto const& s : options.strings)
        if (std::string_view(withheld).ends_with(s)) stop = std::max(stop, s.size());
      if (stop == 0) continue;
      withheld.resize(withheld.size() - stop);
      return end(finish_reason::string);
    }
    return count < options.max_new_tokens ? show(withheld.size() - possible_beginning()) : end(finish_reason::length);
  }
  /// What was withheld, for a text that is ended from outside.
  std::string_view flush() { return show(withheld.size()); }
  finish_reason reason() const { return finished; }

 private:
  std::string_view end(finish_reason why) {
    finished = why;
    return flush();
  }
  std::string_view show(std::size_t bytes) {
    shown.assign(withheld, 0, bytes);
    withheld.erase(0, bytes);
    return shown;
  }
  /// How many of the last bytes are the beginning of a stop string.
  std::size_t possible_beginning() const {
    std::size_t most = 0;
    for (std::string_view const s : options.strings)
      for (std::size_t n = std::min(s.size() - 1, withheld.size()); n > most; --n)
        if (std::string_view(withheld).ends_with(s.substr(0, n))) most = n;
    return most;
  }

  stop_options options;
  std::string withheld, shown;
  index_t count = 0;
  finish_reason finished = finish_reason::none;
};

}  // namespace tenon::infer
