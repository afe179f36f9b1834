// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include <tenon/infer/stop.hpp>

namespace {
using namespace tenon;
using namespace tenon::infer;

/// The text up to the stop string that is complete first, found by looking at the whole of it.
std::string cut_text(std::string const& text, std::vector<std::string> const& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (auto const& s : stops)
      if (end >= s.size() && text.compare(end - s.size(), s.size(), s) == 0) longest = std::max(longest, s.size());
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}
}  // namespace

TEST_SUITE("stop") {
  TEST_CASE("what is shown does not depend on how the text is cut, and is never taken back") {
    std::mt19937 random(1);
    auto const word = [&](int most) {
      std::string s;
      for (int n = 1 + int(random() % unsigned(most)); n > 0; --n) s.push_back(char('a' + random() % 2));
      return s;
    };
    int stopped = 0;
    for (int i = 0; i < 20000; ++i) {
      std::string const text = word(20);
      std::vector<std::string> stops;
      for (unsigned n = random() % 3; n > 0; --n) stops.push_back(word(6));
      auto const wanted = cut_text(text, stops);
      stop_check check({.max_new_tokens = 1000, .strings = stops});
      std::string shown;
      for (std::size_t at = 0; at < text.size() && check.reason() == finish_reason::none;) {
        auto const n = random() % 4;
        shown += check.push(0, std::string_view(text).substr(at, n));
        at += n;
        CHECK(shown == wanted.substr(0, shown.size()));
      }
      stopped += wanted != text;
      CHECK((check.reason() == finish_reason::string) == (cut_text(text, stops) != text));
      shown += check.flush();
      CHECK(shown == wanted);
    }
    CHECK(stopped > 1000);
  }

  TEST_CASE("no more is withheld than what may be a stop string") {
    stop_check check({.max_new_tokens = 100, .strings = {"\n\nUser:", "<end>"}});
    CHECK(check.push(1, "Hi\n") == "Hi");
    CHECK(check.push(2, "there") == "\nthere");
    CHECK(check.push(3, " <e") == " ");
    CHECK(check.push(4, "n") == "");
    CHECK(check.push(5, "<e") == "<en");
    CHECK(check.push(6, "nd> and more") == "");
    CHECK(check.reason() == finish_reason::string);
  }

  TEST_CASE("stop tokens and lengths end a text with all that was withheld") {
    stop_check token({.max_new_tokens = 100, .tokens = {7, 9}, .strings = {"xyz"}});
    CHECK(token.push(1, "axy") == "a");
    CHECK(token.push(9, "</s>") == "xy");
    CHECK(token.reason() == finish_reason::token);
    stop_check length({.max_new_tokens = 2, .strings = {"xyz"}});
    CHECK(length.push(1, "x") == "");
    CHECK(length.push(2, "y") == "xy");
    CHECK(length.reason() == finish_reason::length);
    stop_check both({.max_new_tokens = 1, .strings = {"xyz"}});
    CHECK(both.push(1, "axyz") == "a");
    CHECK(both.reason() == finish_reason::string);
    CHECK_THROWS_AS(stop_check({.strings = {""}}), argument_error);
  }
}
