// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The regular expressions that tokenizers cut text with.   @test tests/text/pattern_test.cpp
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/text/unicode.hpp>
#include <tenon/text/utf8.hpp>

namespace tenon::text {

/// A compiled regular expression over code points, which matches as backtracking engines do: the first alternative that
/// fits. What tokenizers use is there: alternatives, groups, (?:) (?i:) (?=) (?!), classes with \p{..} \s \d \w and nested
/// ones, ? * + {m,n} with and without possession, ^ and $ for the text's ends. The rest is refused with a sentence.
/// @error argument_error for an expression that is wrong or not supported   @test tests/text/pattern_test.cpp
class pattern {
 public:
  static constexpr std::size_t no_match = std::size_t(-1);

  /// Matches never.
  pattern() = default;
  explicit pattern(std::string_view expression) : source(expression) {
    if (expression.size() > most_bytes) fail("is longer than " + std::to_string(most_bytes) + " bytes");
    accept = add({.what = op::accept});
    start = alternatives(accept, false);
    if (at != source.size()) fail("has a ')' too many");
  }
  std::string const& expression() const { return source; }

  /// Where the match that begins at byte `from` ends; no_match when none begins there.
  /// @error error when the expression needs more steps than any text is worth
  std::size_t match(std::string_view text, std::size_t from) const {
    if (start < 0) return no_match;
    run r{text, 10'000 + 200 * std::uint64_t(text.size() - from), 0};
    return match(r, start, from);
  }
  /// First byte and end of the first match that does not begin before `from` and is not empty.
  std::pair<std::size_t, std::size_t> search(std::string_view text, std::size_t from) const {
    for (; from < text.size(); from += decode_utf8(text, from).bytes)
      if (std::size_t const end = match(text, from); end != no_match && end > from) return {from, end};
    return {text.size(), text.size()};
  }

 private:
  static constexpr std::size_t most_bytes = 10000;
  static constexpr std::uint32_t no_limit = std::numeric_limits<std::uint32_t>::max();
  static constexpr int most_depth = 1000;

  enum class op { accept, set, repeat, split, look, text_begin, text_end };
  struct node {
    op what;
    int next = -1, set = -1;
    std::uint32_t least = 1, most = 1;
    bool possessive = false, negative = false, lazy = false;
    std::vector<int> heads = {};  ///< of split: where each alternative begins; of look: one
  };
  /// Code points that all of `parts` hold; a part is a union, perhaps inverted.
  struct part {
    std::uint32_t categories = 0;
    std::vector<std::pair<char32_t, char32_t>> ranges;
    std::vector<int> sets;  ///< other sets within this one
    bool inverted = false;
  };
  struct char_set {
    std::vector<part> parts;
    std::array<bool, 128> ascii{};
  };
  struct run {
    std::string_view text;
    std::uint64_t steps;
    int depth;
  };

  bool in_parts(char_set const& s, char32_t c) const {
    return std::all_of(s.parts.begin(), s.parts.end(), [&](part const& p) {
      bool in = p.categories && in_categories(c, p.categories);
      for (std::size_t i = 0; !in && i < p.ranges.size(); ++i) in = c >= p.ranges[i].first && c <= p.ranges[i].second;
      for (std::size_t i = 0; !in && i < p.sets.size(); ++i) in = in_parts(sets[std::size_t(p.sets[i])], c);
      return in != p.inverted;
    });
  }
  /// Bytes of the code point at `i` when the set has it; 0 when not.
  std::size_t takes(int set, std::string_view text, std::size_t i) const {
    if (i >= text.size()) return 0;
    auto const& s = sets[std::size_t(set)];
    std::uint8_t const byte = detail::byte_at(text, i);
    if (byte < 0x80) return s.ascii[byte];
    code_point const c = decode_utf8(text, i);
    return in_parts(s, c.value) ? c.bytes : 0;
  }

  std::size_t match(run& r, int index, std::size_t i) const {
    for (;;) {
      if (r.steps-- == 0) fail("needs too many steps for a text");
      node const& n = nodes[std::size_t(index)];
      switch (n.what) {
        case op::accept: return i;
        case op::text_begin:
          if (i != 0) return no_match;
          break;
        case op::text_end:
          if (i != r.text.size()) return no_match;
          break;
        case op::set: {
          std::size_t const bytes = takes(n.set, r.text, i);
          if (!bytes) return no_match;
          i += bytes;
          break;
        }
        case op::look:
          if ((deeper(r, n.heads[0], i) == no_match) != n.negative) return no_match;
          break;
        case op::split: {
          for (std::size_t k = 0; k + 1 < n.heads.size(); ++k)
            if (std::size_t const end = deeper(r, n.heads[k], i); end != no_match) return end;
          index = n.heads.back();
          continue;
        }
        case op::repeat: {
          std::size_t const begin = i;
          std::uint32_t count = 0;
          std::uint32_t const wanted = n.lazy ? n.least : n.most;
          for (std::size_t bytes; count < wanted && (bytes = takes(n.set, r.text, i)) > 0; ++count) i += bytes;
          r.steps -= std::min<std::uint64_t>(r.steps, (i - begin) / 16);
          if (count < n.least) return no_match;
          if (n.possessive || n.next == accept) break;
          for (; n.lazy; ++count) {
            if (std::size_t const end = deeper(r, n.next, i); end != no_match) return end;
            std::size_t const bytes = count < n.most ? takes(n.set, r.text, i) : 0;
            if (!bytes) return no_match;
            i += bytes;
          }
          for (; count > n.least; --count) {
            if (std::size_t const end = deeper(r, n.next, i); end != no_match) return end;
            i = previous_utf8(r.text, i);
          }
          break;
        }
      }
      index = n.next;
    }
  }
  std::size_t deeper(run& r, int index, std::size_t i) const {
    if (++r.depth > most_depth) fail("repeats a group more often than is supported");
    std::size_t const end = match(r, index, i);
    --r.depth;
    return end;
  }

  // The compiler. An expression is built from its end: what is compiled gets the node that comes after it. Groups are
  // skipped over first, so that a sequence can be walked backwards.
  [[noreturn]] void fail(std::string const& what) const {
    std::string shown;
    for (char const c : source.substr(0, 200)) shown += c >= 0 && c < 0x20 ? '?' : c;
    throw argument_error("tenon::text::pattern: the expression '" + shown + "' " + what +
                         ". Fix: use a tokenizer with another one.");
  }
  int add(node n) {
    if (nodes.size() > 4 * most_bytes) fail("is too large");
    nodes.push_back(std::move(n));
    return int(nodes.size()) - 1;
  }
  bool eat(std::string_view s) {
    if (source.compare(at, s.size(), s) != 0) return false;
    at += s.size();
    return true;
  }
  char32_t take() {
    if (at >= source.size()) fail("ends too early");
    code_point const c = decode_utf8(source, at);
    at += c.bytes;
    return c.value;
  }

  /// One element of a sequence, compiled once what follows is known.
  struct element {
    enum class kind { set, group, look, text_begin, text_end } what;
    int set = -1;
    std::size_t begin = 0;  ///< of a group: where its inside begins
    bool insensitive = false, negative = false;
    std::uint32_t least = 1, most = 1;
    bool possessive = false, lazy = false;
    bool is_letter() const { return what == kind::set && least == 1 && most == 1; }
  };

  /// Counts one level, and one of all the things that are read, for the time it lives: groups are read more than once.
  struct level {
    pattern& p;
    explicit level(pattern& whole) : p(whole) {
      if (++p.depth > 100) p.fail("is nested too deeply");
      if (++p.things > 20 * int(most_bytes)) p.fail("is too large");
    }
    ~level() { --p.depth; }
  };

  int alternatives(int next, bool insensitive) {
    level const here(*this);
    node split{.what = op::split};
    do split.heads.push_back(sequence(next, insensitive));
    while (eat("|"));
    return split.heads.size() == 1 ? split.heads[0] : add(std::move(split));
  }
  int sequence(int next, bool insensitive) {
    std::vector<element> const elements = read_elements(insensitive);
    std::size_t const end = at;
    for (std::size_t k = elements.size(); k-- > 0;) next = compile(elements[k], next);
    at = end;
    return next;
  }
  /// What comes before the next '|' or ')'.
  std::vector<element> read_elements(bool insensitive) {
    std::vector<element> elements;
    while (at < source.size() && source[at] != '|' && source[at] != ')') {
      if (eat("(?i)")) {
        insensitive = true;
        continue;
      }
      element e = read_element(insensitive);
      // A look-ahead at one code point before one code point: both sets at once.
      if (!elements.empty() && elements.back().what == element::kind::look && elements.back().set >= 0 &&
          e.is_letter()) {
        char_set both = sets[std::size_t(elements.back().set)];
        if (elements.back().negative) both = char_set{{part{0, {}, {elements.back().set}, true}}};
        for (part const& one : sets[std::size_t(e.set)].parts) both.parts.push_back(one);
        e.set = add_set(std::move(both));
        elements.pop_back();
      }
      elements.push_back(e);
    }
    return elements;
  }
  int compile(element const& e, int next) {
    using kind = element::kind;
    auto const inside = [&](int after) {
      at = e.begin;
      return alternatives(after, e.insensitive);
    };
    switch (e.what) {
      case kind::text_begin: return add({.what = op::text_begin, .next = next});
      case kind::text_end: return add({.what = op::text_end, .next = next});
      case kind::look: {
        int const head = inside(accept);
        return add({.what = op::look, .next = next, .negative = e.negative, .heads = {head}});
      }
      case kind::set:
        if (e.least == 1 && e.most == 1) return add({.what = op::set, .next = next, .set = e.set});
        return add({.what = op::repeat,
                    .next = next,
                    .set = e.set,
                    .least = e.least,
                    .most = e.most,
                    .possessive = e.possessive,
                    .lazy = e.lazy});
      case kind::group: break;
    }
    if (e.possessive) fail("has a possessive group");
    if (e.least > 50 || (e.most != no_limit && e.most > 50)) fail("repeats a group more than 50 times");
    auto const choice = [&](int first, int second) {
      return e.lazy ? std::vector<int>{second, first} : std::vector<int>{first, second};
    };
    if (e.most == no_limit) {  // a loop
      int const loop = add({.what = op::split});
      int const body = inside(loop);
      nodes[std::size_t(loop)].heads = choice(body, next);
      next = loop;
    } else {
      int const after = next;
      for (std::uint32_t k = e.least; k < e.most; ++k) {
        int const body = inside(next);
        next = add({.what = op::split, .heads = choice(body, after)});
      }
    }
    for (std::uint32_t k = 0; k < e.least; ++k) next = inside(next);
    return next;
  }

  element read_element(bool insensitive) {
    level const here(*this);
    element e{.what = element::kind::set};
    if (eat("(")) {
      e.what = element::kind::group;
      e.insensitive = insensitive;
      if (eat("?i:")) e.insensitive = true;
      else if (eat("?=") || eat("?!")) {
        e.what = element::kind::look;
        e.negative = source[at - 1] == '!';
      } else if (!eat("?:") && at < source.size() && source[at] == '?')
        fail("has a kind of group that is not supported");
      e.begin = at;
      // What takes one code point in parentheses does so without them; the rest is compiled later.
      std::size_t const before = sets.size();
      if (auto const inside = read_elements(e.insensitive); inside.size() == 1 && inside[0].is_letter() && eat(")"))
        e.set = inside[0].set;
      else sets.resize(before);
      if (e.set < 0) {
        at = e.begin;
        skip_group();
      } else if (e.what == element::kind::group) {
        e.what = element::kind::set;
      }
    } else if (eat("^")) {
      e.what = element::kind::text_begin;
    } else if (eat("$")) {
      e.what = element::kind::text_end;
    } else {
      part p;
      if (eat("[")) p = read_class(insensitive);
      else if (eat("\\")) read_escape(p, insensitive);
      else if (eat(".")) p = part{0, {{'\n', '\n'}}, {}, true};
      else if (std::string_view("?*+{").find(source[at]) != std::string_view::npos) fail("repeats nothing");
      else add_letter(p, take(), insensitive);
      e.set = add_set(char_set{{std::move(p)}});
    }
    read_count(e);
    return e;
  }
  void skip_group() {
    for (int open = 1; open > 0;) {
      char32_t const c = take();
      if (c == '\\') take();
      else if (c == '[') read_class(false);
      else if (c == '(') ++open;
      else if (c == ')') --open;
    }
  }
  void read_count(element& e) {
    if (eat("?")) e.least = 0;
    else if (eat("*")) e.least = 0, e.most = no_limit;
    else if (eat("+")) e.most = no_limit;
    else if (eat("{")) {
      e.least = source[at] == ',' ? 0 : read_number();
      e.most = !eat(",") ? e.least : source[at] == '}' ? no_limit : read_number();
      if (!eat("}") || e.most < e.least) fail("has a count that cannot be read");
    } else {
      return;
    }
    if (eat("+")) e.possessive = true;
    else if (eat("?")) e.lazy = true;
    if (at < source.size() && std::string_view("?*+{").find(source[at]) != std::string_view::npos)
      fail("repeats a repetition");
    if (e.what != element::kind::set && e.what != element::kind::group) fail("repeats what takes no text");
  }
  std::uint32_t read_number() {
    std::uint32_t n = 0;
    std::size_t const begin = at;
    for (; at < source.size() && source[at] >= '0' && source[at] <= '9'; ++at) {
      n = n * 10 + std::uint32_t(source[at] - '0');
      if (n > 1000) fail("has a count above 1000");
    }
    if (at == begin) fail("has a count that cannot be read");
    return n;
  }

  int add_set(char_set s) {
    for (std::size_t c = 0; c < s.ascii.size(); ++c) s.ascii[c] = in_parts(s, char32_t(c));
    sets.push_back(std::move(s));
    return int(sets.size()) - 1;
  }
  static void add_letter(part& p, char32_t c, bool insensitive) {
    p.ranges.emplace_back(c, c);
    if (!insensitive) return;
    char32_t const small = lower_case(c);
    p.ranges.emplace_back(small, small);
    if (small >= 'a' && small <= 'z') p.ranges.emplace_back(small - 32, small - 32);
    if (small == 's') p.ranges.emplace_back(0x17f, 0x17f);    // the long s
    if (small == 'k') p.ranges.emplace_back(0x212a, 0x212a);  // the Kelvin sign
  }
  part read_class(bool insensitive) {
    level const here(*this);
    part p;
    p.inverted = eat("^");
    for (bool first = true; first || !eat("]"); first = false) {
      if (eat("[")) {
        if (source.compare(at, 1, ":") == 0) fail("has a POSIX class");
        p.sets.push_back(add_set(char_set{{read_class(insensitive)}}));
        continue;
      }
      if (eat("&&") || eat("--")) fail("has an operator in a class");
      char32_t low = take();
      if (low == '\\' && !read_escape(p, insensitive, &low)) continue;
      if (source.compare(at, 1, "-") != 0 || source.compare(at, 2, "-]") == 0) {
        add_letter(p, low, insensitive);
        continue;
      }
      eat("-");
      char32_t high = take();
      if (high == '\\' && !read_escape(p, insensitive, &high)) fail("has a range without an end");
      if (high < low) fail("has a range that runs backwards");
      if (insensitive) fail("has a range without regard to case");
      p.ranges.emplace_back(low, high);
    }
    return p;
  }
  /// After a backslash. A single letter goes to `letter` where it is given, and true comes back; else into the part.
  bool read_escape(part& p, bool insensitive, char32_t* letter = nullptr) {
    using c = category;
    auto const also = [&](part other) {
      p.sets.push_back(add_set(char_set{{std::move(other)}}));
      return false;
    };
    char32_t const e = take();
    char32_t value = e;
    switch (e) {
      case 's':
      case 'S': return also({separator_categories, {{9, 13}, {0x85, 0x85}}, {}, e == 'S'});
      case 'd':
      case 'D': return also({category_bit(c::Nd), {}, {}, e == 'D'});
      case 'w':
      case 'W':
        return also(
            {letter_categories | mark_categories | category_bit(c::Nd) | category_bit(c::Nl) | category_bit(c::Pc),
             {{0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}, {0x200c, 0x200d}},
             {},
             e == 'W'});
      case 'p':
      case 'P': return also({read_property(), {}, {}, e == 'P'});
      case 'n': value = '\n'; break;
      case 'r': value = '\r'; break;
      case 't': value = '\t'; break;
      case 'f': value = '\f'; break;
      case 'v': value = '\v'; break;
      case 'x':
      case 'u': value = read_hexadecimal(e == 'x' ? 2 : 4); break;
      default:
        if ((e >= '0' && e <= '9') || (lower_case(e) >= 'a' && lower_case(e) <= 'z'))
          fail(std::string("has the escape \\") + char(e) + ", which is not supported");
    }
    if (letter) return *letter = value, true;
    return add_letter(p, value, insensitive), true;
  }
  char32_t read_hexadecimal(int digits) {
    bool const braces = eat("{");
    char32_t value = 0;
    for (int k = 0; braces ? !eat("}") : k < digits; ++k) {
      char32_t const d = take();
      if (k == 6 || !((d >= '0' && d <= '9') || (d >= 'a' && d <= 'f') || (d >= 'A' && d <= 'F')))
        fail("has a number that cannot be read");
      value = value * 16 + (d <= '9' ? d - '0' : (d & 0xdf) - 'A' + 10);
    }
    return value;
  }
  std::uint32_t read_property() {
    std::string name(1, char(take()));
    if (name == "{")
      for (name.clear(); !eat("}");) name += char(take());
    constexpr std::string_view names = "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCsCoCn";
    constexpr std::pair<std::string_view, std::uint32_t> groups[] = {{"L", letter_categories},
                                                                     {"Letter", letter_categories},
                                                                     {"M", mark_categories},
                                                                     {"N", number_categories},
                                                                     {"Number", number_categories},
                                                                     {"P", punctuation_categories},
                                                                     {"Punctuation", punctuation_categories},
                                                                     {"S", symbol_categories},
                                                                     {"Z", separator_categories},
                                                                     {"C", other_categories}};
    for (auto const& [known, bits] : groups)
      if (name == known) return bits;
    if (std::size_t const place = names.find(name);
        name.size() == 2 && place != std::string_view::npos && place % 2 == 0)
      return std::uint32_t(1) << place / 2;
    fail("has the property '" + name + "', which is not supported");
  }

  std::string source;
  std::vector<node> nodes;
  std::vector<char_set> sets;
  std::size_t at = 0;
  int start = -1, accept = -1, depth = 0, things = 0;
};

}  // namespace tenon::text
