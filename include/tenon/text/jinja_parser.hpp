// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Templates as trees.   @test tests/text/jinja_test.cpp
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/text/jinja_value.hpp>
#include <tenon/text/unicode.hpp>
#include <tenon/text/utf8.hpp>

namespace tenon::text::jinja::detail {

/// Says what is wrong with a template, and on which line.
[[noreturn]] inline void fail(int line, std::string const& what) {
  throw argument_error("tenon::text::jinja: line " + std::to_string(line) + " of the template: " + on_one_line(what) +
                       ". Fix: correct the template, or use another one.");
}

enum class kind {
  // statements
  text,
  print,
  condition,
  loop,
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  block,
  stop,
  next,
  // expressions
  literal,
  name,
  list_of,
  dict_of,
  member,
  item,
  slice,
  call,
  keyword,
  filter,
  test,
  negation,
  minus,
  plus,
  binary,
  both,
  either,
  choice,
  nothing
};

/// One node of the tree. What its children are depends on its kind:
/// condition: test, then, else; loop: iterable, filter or nothing, body, else; set: target, value; set_block: target, body;
/// macro: body, default values; filter, test, call: what it is applied to, arguments; slice: of what, from, to, step.
struct node {
  kind what = kind::nothing;
  int line = 0;
  std::string text = {};                ///< a name, an operator or a text
  value constant = {};                  ///< of literal
  std::vector<std::string> names = {};  ///< of loop: its variables; of macro: its parameters
  std::vector<node> children = {};
  int height = 1;  ///< of the tree below; trees are walked by recursion
};

struct token {
  enum class kind { text, begin_print, end_print, begin_block, end_block, name, string, number, symbol, end } what;
  int line;
  std::string text;
  value constant = {};
};

/// Cuts a template into tokens, with trim_blocks and lstrip_blocks as chat templates expect.
class lexer {
 public:
  explicit lexer(std::string_view template_text) {
    for (std::size_t i = 0; i < template_text.size(); ++i) {  // all lines end in \n, the last one without
      bool const pair = template_text.substr(i, 2) == "\r\n";
      source += template_text[i] == '\r' ? '\n' : template_text[i];
      i += pair;
    }
    if (source.ends_with('\n')) source.pop_back();
  }
  std::vector<token> run() {
    while (at < source.size()) read_text();
    put(token::kind::end, "");
    return std::move(tokens);
  }

 private:
  void put(token::kind k, std::string text, value constant = {}) {
    tokens.push_back({k, line, std::move(text), std::move(constant)});
  }
  bool here(std::string_view s) const { return source.compare(at, s.size(), s) == 0; }
  void go(std::size_t bytes) {
    for (; bytes > 0 && at < source.size(); --bytes) line += source[at++] == '\n';
  }
  static bool blank(char c) { return c == ' ' || (c >= 9 && c <= 13); }

  void read_text() {
    std::size_t begin = source.find('{', at);
    while (begin != std::string::npos &&
           (begin + 1 == source.size() || std::string_view("{%#").find(source[begin + 1]) == std::string_view::npos))
      begin = source.find('{', begin + 1);
    if (begin == std::string::npos) begin = source.size();
    std::string text = source.substr(at, begin - at);
    char const sort = begin + 1 < source.size() ? source[begin + 1] : '\0';
    char const sign = begin + 2 < source.size() ? source[begin + 2] : '\0';
    if (sign == '-') {
      while (!text.empty() && blank(text.back())) text.pop_back();
    } else if (sort != '{' && sign != '+' && begin < source.size()) {
      std::size_t const last_line = text.rfind('\n') + 1;
      if ((last_line > 0 || line_begins) && text.find_first_not_of(" \t\v\f\r", last_line) == std::string::npos)
        text.resize(last_line);
    }
    if (!text.empty()) put(token::kind::text, text);
    go(begin - at);
    line_begins = false;
    if (at == source.size()) return;
    go(sign == '-' || sign == '+' ? 3 : 2);
    if (sort == '#') {
      std::size_t const end = source.find("#}", at);
      if (end == std::string::npos) fail(line, "a comment has no end");
      bool const strips = end > at && source[end - 1] == '-', keeps = end > at && source[end - 1] == '+';
      go(end - at + 2);
      after_tag(strips, !keeps);
    } else {
      read_tag(sort == '{');
    }
  }
  void after_tag(bool strips, bool trims) {
    std::size_t const begin = at;
    if (strips)
      while (at < source.size() && blank(source[at])) go(1);
    else if (trims && here("\n")) go(1);
    line_begins = at > begin && source[at - 1] == '\n';
  }
  void read_tag(bool print) {
    put(print ? token::kind::begin_print : token::kind::begin_block, "");
    std::size_t const first = tokens.size();
    std::string_view const ending = print ? "}}" : "%}";
    for (std::string brackets;;) {
      while (at < source.size() && blank(source[at])) go(1);
      if (at >= source.size()) fail(line, "a tag has no end");
      char const sign = source[at];
      bool const signed_end = (sign == '-' || sign == '+') && source.compare(at + 1, 2, ending) == 0;
      if (brackets.empty() && (here(ending) || signed_end)) {
        put(print ? token::kind::end_print : token::kind::end_block, "");
        go(signed_end ? 3 : 2);
        after_tag(signed_end && sign == '-', !print && !signed_end);
        break;
      }
      read_token(brackets);
    }
    // What is raw is text.
    if (!print && tokens.size() == first + 2 && tokens[first].text == "raw") read_raw(first);
  }
  void read_raw(std::size_t first) {
    tokens.resize(first - 1);
    for (std::size_t from = at;;) {
      std::size_t const begin = source.find("{%", from), word = source.find_first_not_of(" \t\n-+", begin + 2);
      if (begin == std::string::npos || word == std::string::npos) fail(line, "a raw block has no end");
      from = begin + 2;
      if (source.compare(word, 6, "endraw") != 0) continue;
      std::size_t const end = source.find("%}", word);
      if (end == std::string::npos) fail(line, "a raw block has no end");
      std::string text = source.substr(at, begin - at);
      while (source[begin + 2] == '-' && !text.empty() && blank(text.back())) text.pop_back();
      put(token::kind::text, text);
      go(end + 2 - at);
      return after_tag(source[end - 1] == '-', source[end - 1] != '+');
    }
  }
  void read_token(std::string& brackets) {
    char const c = source[at];
    std::size_t end = at;
    if (is_letter(c)) {
      while (end < source.size() && (is_letter(source[end]) || is_digit(source[end]))) ++end;
      put(token::kind::name, source.substr(at, end - at));
    } else if (is_digit(c)) {
      while (end < source.size() && (is_digit(source[end]) || source[end] == '_')) ++end;
      bool whole = true;
      if (end + 1 < source.size() && source[end] == '.' && is_digit(source[end + 1])) {
        whole = false;
        for (++end; end < source.size() && is_digit(source[end]);) ++end;
      }
      if (end < source.size() && (source[end] | 32) == 'e') {
        std::size_t const digit =
            end + 1 + (end + 1 < source.size() && (source[end + 1] == '-' || source[end + 1] == '+'));
        if (digit < source.size() && is_digit(source[digit])) {
          whole = false;
          for (end = digit; end < source.size() && is_digit(source[end]);) ++end;
        }
      }
      std::string digits;
      for (char const d : std::string_view(source).substr(at, end - at))
        if (d != '_') digits += d;
      std::int64_t n = 0;
      double d = 0;
      char const* const last = digits.data() + digits.size();
      if (whole ? std::from_chars(digits.data(), last, n).ec != std::errc()
                : std::from_chars(digits.data(), last, d).ec != std::errc())
        fail(line, "the number " + digits.substr(0, 40) + " is too large");
      put(token::kind::number, digits, whole ? value(n) : value(d));
    } else if (c == '"' || c == '\'') {
      return read_string(c);
    } else {
      constexpr std::array<std::string_view, 6> pairs{"==", "!=", "<=", ">=", "//", "**"};
      end = at + 1;
      for (auto const p : pairs)
        if (here(p)) end = at + 2;
      if (std::string_view("+-*/%~<>=!.,:|()[]{}").find(c) == std::string_view::npos || (c == '!' && end == at + 1))
        fail(line, std::string("the letter '") + c + "' is not expected here");
      if (c == '(' || c == '[' || c == '{') brackets += c == '(' ? ')' : char(c + 2);
      if (c == ')' || c == ']' || c == '}') {
        if (brackets.empty() || brackets.back() != c) fail(line, std::string("a '") + c + "' closes nothing");
        brackets.pop_back();
      }
      put(token::kind::symbol, source.substr(at, end - at));
    }
    go(end - at);
  }
  void read_string(char quote) {
    std::string text;
    int const begin = line;
    for (go(1); at < source.size() && source[at] != quote; go(1)) {
      if (source[at] != '\\') {
        text += source[at];
        continue;
      }
      go(1);
      char const e = at < source.size() ? source[at] : '\0';
      constexpr std::string_view names = "ntrbfv0", meanings("\n\t\r\b\f\v\0", 7);
      if (e == 'u' || e == 'x') {
        char32_t c = read_hexadecimal(e == 'u' ? 4 : 2);
        if (c >= 0xd800 && c < 0xdc00 && source.compare(at + 1, 2, "\\u") == 0) {
          go(2);
          c = 0x10000 + ((c - 0xd800) << 10) + (read_hexadecimal(4) - 0xdc00);
        }
        append_utf8(text, c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? replacement_character : c);
      } else if (std::size_t const k = names.find(e); k < names.size()) {
        text += meanings[k];
      } else if (e == '\\' || e == '\'' || e == '"') {
        text += e;
      } else if (e != '\n') {
        (text += '\\') += e;
      }
    }
    if (at == source.size()) fail(begin, "a text in quotes has no end");
    go(1);
    put(token::kind::string, text, value(text));
  }
  /// Stands on the last digit after it.
  char32_t read_hexadecimal(std::size_t digits) {
    unsigned n = 0;
    char const* const begin = source.data() + std::min(at + 1, source.size());
    char const* const end = begin + std::min(digits, source.size() - std::size_t(begin - source.data()));
    auto const r = std::from_chars(begin, end, n, 16);
    if (r.ec != std::errc() || r.ptr != begin + digits) fail(line, "an escaped letter cannot be read");
    go(digits);
    return n;
  }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_letter(char c) {
    return static_cast<std::uint8_t>(c) >= 0x80 || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  }

  std::string source;
  std::vector<token> tokens;
  std::size_t at = 0;
  int line = 1;
  bool line_begins = true;
};

/// Builds the tree of a template.
class parser {
 public:
  explicit parser(std::string_view template_text) : tokens(lexer(template_text).run()) {}
  node run() {
    node all = body({});
    if (now().what != token::kind::end) wrong();
    return all;
  }

 private:
  token const& now() const { return tokens[at]; }
  token take() { return tokens[at + 1 < tokens.size() ? at++ : at]; }
  bool is_symbol(std::string_view s) const { return now().what == token::kind::symbol && now().text == s; }
  bool is_name(std::string_view s) const { return now().what == token::kind::name && now().text == s; }
  bool eat_symbol(std::string_view s) { return is_symbol(s) && (take(), true); }
  bool eat_name(std::string_view s) { return is_name(s) && (take(), true); }
  [[noreturn]] void wrong() const {
    fail(now().line, now().what == token::kind::end ? "it ends too early"
                                                    : "'" + now().text.substr(0, 40) + "' is not expected here");
  }
  void need_symbol(std::string_view s) {
    if (!eat_symbol(s))
      fail(now().line, "'" + std::string(s) + "' is expected" +
                           (now().text.empty() ? "" : ", not '" + now().text.substr(0, 40) + "'"));
  }
  std::string need_name() {
    if (now().what != token::kind::name) wrong();
    return take().text;
  }
  void need(token::kind k) {
    if (now().what != k) wrong();
    take();
  }
  node make(kind k, std::vector<node> children = {}, std::string text = {}) const {
    node n{.what = k, .line = now().line, .text = std::move(text), .children = std::move(children)};
    for (node const& c : n.children) n.height = std::max(n.height, c.height + 1);
    if (n.height > 400) fail(n.line, "an expression is too long");
    return n;
  }
  struct level {
    parser& p;
    explicit level(parser& whole) : p(whole) {
      if (++p.depth > 100) fail(p.now().line, "it is nested too deeply");
    }
    ~level() { --p.depth; }
  };

  /// Statements up to a block whose first word is one of these; that word is next.
  node body(std::vector<std::string_view> const& ends) {
    level const here(*this);
    node out = make(kind::block);
    for (;;) {
      if (now().what == token::kind::text) {
        out.children.push_back(make(kind::text, {}, now().text));
        take();
      } else if (now().what == token::kind::begin_print) {
        take();
        node e = expression();
        need(token::kind::end_print);
        out.children.push_back(make(kind::print, {std::move(e)}));
      } else if (now().what == token::kind::begin_block) {
        for (auto const e : ends)
          if (tokens[at + 1].what == token::kind::name && tokens[at + 1].text == e) return take(), out;
        take();
        out.children.push_back(statement());
      } else {
        if (!ends.empty()) fail(now().line, "'" + std::string(ends.back()) + "' is missing");
        return out;
      }
    }
  }
  node ended(std::string_view word) {
    node b = body({word});
    take();
    need(token::kind::end_block);
    return b;
  }
  node statement() {
    int const line = now().line;
    std::string const word = need_name();
    node out = statement_of(word);
    out.line = line;
    return out;
  }
  node statement_of(std::string const& word) {
    if (word == "if") return condition();
    if (word == "for") return loop();
    if (word == "set") return set();
    if (word == "macro") return macro();
    if (word == "generation") {  // marks what a model says, for training
      need(token::kind::end_block);
      return ended("endgeneration");
    }
    if (word == "filter") {
      node f = make(kind::filter_block, {filters(named_filter(make(kind::nothing)))});
      need(token::kind::end_block);
      f.children.push_back(ended("endfilter"));
      return f;
    }
    if (word == "call") {
      node out = make(kind::call_block);
      if (is_symbol("(")) out.names = parameters(out);
      node called = expression();
      if (called.what != kind::call) wrong();
      need(token::kind::end_block);
      node inside = ended("endcall");
      out.children.insert(out.children.begin(), std::move(inside));
      out.children.push_back(std::move(called));
      return out;
    }
    if (word == "break" || word == "continue") {
      need(token::kind::end_block);
      return make(word == "break" ? kind::stop : kind::next);
    }
    fail(now().line, "the statement '" + word.substr(0, 40) + "' is not supported");
  }
  node condition() {
    level const here(*this);
    node out = make(kind::condition, {expression()});
    need(token::kind::end_block);
    out.children.push_back(body({"elif", "else", "endif"}));
    if (eat_name("elif")) {
      out.children.push_back(condition());
      return out;
    }
    if (eat_name("else")) {
      need(token::kind::end_block);
      out.children.push_back(body({"endif"}));
    }
    if (!eat_name("endif")) wrong();
    need(token::kind::end_block);
    return out;
  }
  node loop() {
    node out = make(kind::loop);
    bool const bracket = eat_symbol("(");
    do out.names.push_back(need_name());
    while (eat_symbol(","));
    if (bracket) need_symbol(")");
    if (!eat_name("in")) wrong();
    out.children.push_back(either());
    out.children.push_back(eat_name("if") ? expression() : make(kind::nothing));
    if (is_name("recursive")) fail(now().line, "recursive loops are not supported");
    need(token::kind::end_block);
    out.children.push_back(body({"else", "endfor"}));
    if (eat_name("else")) {
      need(token::kind::end_block);
      out.children.push_back(body({"endfor"}));
    }
    take();
    need(token::kind::end_block);
    return out;
  }
  node set() {
    node target = postfix_name();
    if (!is_symbol(",") && !is_symbol("=")) {
      node out = make(kind::set_block, {std::move(target)});
      if (is_symbol("|")) out.children.push_back(filters(make(kind::nothing)));
      else out.children.push_back(make(kind::nothing));
      need(token::kind::end_block);
      out.children.push_back(ended("endset"));
      return out;
    }
    node out = make(kind::set);
    if (is_symbol(",")) {
      out.names.push_back(target.text);
      while (eat_symbol(",")) out.names.push_back(need_name());
    }
    need_symbol("=");
    node v = tuple();
    out.children.push_back(std::move(target));
    out.children.push_back(std::move(v));
    need(token::kind::end_block);
    return out;
  }
  /// A name, or a member of a namespace.
  node postfix_name() {
    node target = make(kind::name, {}, need_name());
    if (eat_symbol(".")) {
      std::string const member = need_name();
      target = make(kind::member, {std::move(target)}, member);
    }
    return target;
  }
  /// Parameters in parentheses; their default values become children.
  std::vector<std::string> parameters(node& owner) {
    std::vector<std::string> names;
    need_symbol("(");
    while (!is_symbol(")")) {
      names.push_back(need_name());
      owner.children.push_back(eat_symbol("=") ? expression() : make(kind::nothing));
      if (!eat_symbol(",")) break;
    }
    need_symbol(")");
    return names;
  }
  node macro() {
    node out = make(kind::macro, {}, need_name());
    out.names = parameters(out);
    need(token::kind::end_block);
    node inside = ended("endmacro");
    out.children.insert(out.children.begin(), std::move(inside));
    return out;
  }

  node tuple() {
    node first = expression();
    if (!is_symbol(",")) return first;
    node out = make(kind::list_of, {std::move(first)});
    while (eat_symbol(","))
      if (now().what != token::kind::end_block && !is_symbol(")")) out.children.push_back(expression());
    return out;
  }
  node expression() {
    level const here(*this);
    node e = either();
    while (eat_name("if")) {
      node test = either();
      node other = eat_name("else") ? expression() : make(kind::nothing);
      e = make(kind::choice, {std::move(test), std::move(e), std::move(other)});
    }
    return e;
  }
  node either() {
    node e = both();
    while (eat_name("or")) e = make(kind::either, {std::move(e), both()});
    return e;
  }
  node both() {
    node e = negation();
    while (eat_name("and")) e = make(kind::both, {std::move(e), negation()});
    return e;
  }
  node negation() {
    level const here(*this);
    if (eat_name("not")) return make(kind::negation, {negation()});
    return comparison();
  }
  /// a < b < c is a < b and b < c.
  node comparison() {
    node left = sum();
    node out;
    for (;;) {
      std::string op;
      for (std::string_view const s : {"==", "!=", "<=", ">=", "<", ">"})
        if (op.empty() && is_symbol(s)) op = s;
      if (is_name("in")) op = "in";
      if (is_name("not") && tokens[at + 1].what == token::kind::name && tokens[at + 1].text == "in") op = "not in";
      if (op.empty()) return out.what == kind::nothing ? left : out;
      if (op == "not in") take();
      take();
      node right = sum();
      bool const goes_on = out.what != kind::nothing;
      node one = make(kind::binary, {std::move(left), right}, op);
      out = goes_on ? make(kind::both, {std::move(out), std::move(one)}) : std::move(one);
      left = std::move(right);
    }
  }
  template <class Inner>
  node operators(std::initializer_list<std::string_view> symbols, Inner&& inner) {
    node e = inner();
    for (bool found = true; found;) {
      found = false;
      for (auto const s : symbols)
        if (eat_symbol(s)) {
          e = make(kind::binary, {std::move(e), inner()}, std::string(s));
          found = true;
          break;
        }
    }
    return e;
  }
  node sum() {
    return operators({"+", "-"}, [&] {
      return operators({"~"}, [&] {
        return operators({"*", "//", "/", "%"}, [&] { return operators({"**"}, [&] { return unary(); }); });
      });
    });
  }
  node unary() {
    level const here(*this);
    return filters(signed_operand());
  }
  node signed_operand() {
    level const here(*this);
    if (eat_symbol("-")) return make(kind::minus, {signed_operand()});
    if (eat_symbol("+")) return make(kind::plus, {signed_operand()});
    return postfix(primary());
  }
  node filters(node e) {
    for (;;) {
      if (eat_symbol("|")) {
        e = named_filter(std::move(e));
      } else if (eat_name("is")) {
        bool const negated = eat_name("not");
        node t = make(kind::test, {std::move(e)}, need_name());
        if (is_symbol("(")) call_arguments(t);
        else if (starts_argument()) t.children.push_back(postfix(primary()));
        e = negated ? make(kind::negation, {std::move(t)}) : std::move(t);
      } else if (is_symbol("(") || is_symbol(".") || is_symbol("[")) {
        node next = postfix(std::move(e));
        e = std::move(next);
      } else {
        return e;
      }
    }
  }
  node named_filter(node of) {
    node f = make(kind::filter, {std::move(of)}, need_name());
    if (is_symbol("(")) call_arguments(f);
    return f;
  }
  bool starts_argument() const {
    if (now().what == token::kind::name)
      return !is_name("else") && !is_name("or") && !is_name("and") && !is_name("is") && !is_name("if") &&
             !is_name("not") && !is_name("in");
    return now().what == token::kind::string || now().what == token::kind::number || is_symbol("[") || is_symbol("{");
  }
  void call_arguments(node& to) {
    need_symbol("(");
    while (!is_symbol(")")) {
      if (now().what == token::kind::name && tokens[at + 1].what == token::kind::symbol && tokens[at + 1].text == "=") {
        std::string const name = take().text;
        take();
        to.children.push_back(make(kind::keyword, {expression()}, name));
      } else {
        to.children.push_back(expression());
      }
      if (!eat_symbol(",")) break;
    }
    need_symbol(")");
  }
  node postfix(node e) {
    for (;;) {
      if (eat_symbol(".")) {
        std::string const name = now().what == token::kind::number ? take().text : need_name();
        e = make(kind::member, {std::move(e)}, name);
      } else if (eat_symbol("[")) {
        e = subscript(std::move(e));
      } else if (is_symbol("(")) {
        node c = make(kind::call, {std::move(e)});
        call_arguments(c);
        e = std::move(c);
      } else {
        return e;
      }
    }
  }
  node subscript(node of) {
    std::vector<node> parts;
    bool slice = false;
    for (; !is_symbol("]") && parts.size() < 3;) {
      parts.push_back(is_symbol(":") ? make(kind::nothing) : expression());
      if (!eat_symbol(":")) break;
      slice = true;
      if (is_symbol("]")) break;
    }
    need_symbol("]");
    if (parts.empty()) wrong();
    if (!slice) return make(kind::item, {std::move(of), std::move(parts[0])});
    while (parts.size() < 3) parts.push_back(make(kind::nothing));
    return make(kind::slice, {std::move(of), std::move(parts[0]), std::move(parts[1]), std::move(parts[2])});
  }
  node constant(value v) {
    node n = make(kind::literal);
    n.constant = std::move(v);
    return n;
  }
  node primary() {
    level const here(*this);
    if (now().what == token::kind::number) return constant(take().constant);
    if (now().what == token::kind::string) {
      std::string text;
      while (now().what == token::kind::string) text += take().text;  // neighbours are one
      return constant(value(std::move(text)));
    }
    if (now().what == token::kind::name) {
      std::string const name = take().text;
      if (name == "true" || name == "True") return constant(true);
      if (name == "false" || name == "False") return constant(false);
      if (name == "none" || name == "None") return constant(nullptr);
      return make(kind::name, {}, name);
    }
    if (eat_symbol("(")) {
      if (eat_symbol(")")) return make(kind::list_of);
      node e = tuple();
      need_symbol(")");
      return e;
    }
    if (eat_symbol("[")) {
      node out = make(kind::list_of);
      while (!is_symbol("]")) {
        out.children.push_back(expression());
        if (!eat_symbol(",")) break;
      }
      need_symbol("]");
      return out;
    }
    if (eat_symbol("{")) {
      node out = make(kind::dict_of);
      while (!is_symbol("}")) {
        out.children.push_back(expression());
        need_symbol(":");
        out.children.push_back(expression());
        if (!eat_symbol(",")) break;
      }
      need_symbol("}");
      return out;
    }
    wrong();
  }

  std::vector<token> tokens;
  std::size_t at = 0;
  int depth = 0;
};

}  // namespace tenon::text::jinja::detail
