// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What templates do with values: operators, filters, tests, and the methods that Python's values have.
/// @test tests/text/jinja_test.cpp
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/text/jinja_parser.hpp>
#include <tenon/text/jinja_value.hpp>
#include <tenon/text/unicode.hpp>
#include <tenon/text/utf8.hpp>

namespace tenon::text::jinja::detail {

inline constexpr std::size_t by_name_only = std::numeric_limits<std::size_t>::max();

inline void set_member(dict& members, std::string const& name, value v) {
  for (auto& [key, old] : members)
    if (key == name) {
      old = std::move(v);
      return;
    }
  members.emplace_back(name, std::move(v));
}

inline std::vector<std::string_view> letters_of(std::string_view s) {
  std::vector<std::string_view> out;
  for (std::size_t i = 0; i < s.size(); i += out.back().size()) out.push_back(s.substr(i, decode_utf8(s, i).bytes));
  return out;
}
inline std::int64_t length_of(value const& v, int line) {
  if (v.is<std::string>()) return std::int64_t(letters_of(v.string()).size());
  if (v.is<list>()) return std::int64_t(v.items().size());
  if (v.is<dict>()) return std::int64_t(v.members().size());
  if (v.is<undefined>()) return 0;
  fail(line, "a value without a length is measured");
}
/// What a loop goes through.
inline list to_list(value const& v, int line) {
  list out;
  if (v.is<list>()) return v.items();
  if (v.is<dict>())
    for (auto const& m : v.members()) out.emplace_back(m.first);
  else if (v.is<std::string>())
    for (std::string_view const l : letters_of(v.string())) out.emplace_back(l);
  else if (!v.is<undefined>()) fail(line, "a value is gone through that has no parts");
  return out;
}
inline std::int64_t to_integer(value const& v, int line) {
  if (!v.is_number() || v.is<double>()) fail(line, "a whole number is expected, not " + to_text(v).substr(0, 40));
  return v.integer();
}
inline std::string const& to_string(value const& v, int line) {
  if (!v.is<std::string>()) fail(line, "text is expected, not " + to_text(v).substr(0, 40));
  return v.string();
}

inline value member(value const& of, std::string const& name, int line) {
  if (of.is<undefined>()) fail(line, "'" + of.undefined_name() + "' is undefined, and '" + name + "' is asked of it");
  value const* const m = of.member(name);
  return m ? *m : value(undefined{name});
}
inline value item(value const& of, value const& key, int line) {
  if (of.is<undefined>()) fail(line, "'" + of.undefined_name() + "' is undefined");
  if (of.is<dict>()) return member(of, to_text(key), line);
  if (!key.is<std::int64_t>()) return undefined{to_text(key)};
  list const items = of.is<std::string>() || of.is<list>() ? to_list(of, line) : list{};
  std::int64_t const n = std::int64_t(items.size()), i = key.integer() < 0 ? key.integer() + n : key.integer();
  return i >= 0 && i < n ? items[std::size_t(i)] : value(undefined{to_text(key)});
}
/// A member of a member, "a.b".
inline value path(value v, value const& names, int line) {
  std::string const all = to_text(names);
  for (std::size_t at = 0; at <= all.size();) {
    std::size_t const end = std::min(all.find('.', at), all.size());
    std::string const name = all.substr(at, end - at);
    if (v.is<list>() && !name.empty() && name.find_first_not_of("0123456789") == std::string::npos && name.size() < 9)
      v = item(v, value(std::stoi(name)), line);
    else v = member(v, name, line);
    at = end + 1;
  }
  return v;
}
inline value slice(value const& of, value const& from, value const& to, value const& stride, int line) {
  auto const given = [](value const& v) { return !v.is<undefined>() && !v.is<value::none>(); };
  list const items = to_list(of, line);
  std::int64_t const n = std::int64_t(items.size()), step = given(stride) ? to_integer(stride, line) : 1;
  if (step == 0) fail(line, "a slice cannot have steps of 0");
  auto const bound = [&](value const& v, std::int64_t otherwise) {
    if (!given(v)) return otherwise;
    std::int64_t const i = to_integer(v, line);
    return std::clamp<std::int64_t>(i < 0 ? std::max(i, -n - 1) + n : i, step < 0 ? -1 : 0, step < 0 ? n - 1 : n);
  };
  std::int64_t const begin = bound(from, step < 0 ? n - 1 : 0), end = bound(to, step < 0 ? -1 : n);
  list out;
  for (std::int64_t i = begin; step > 0 ? i < end : i > end;) {
    out.push_back(items[std::size_t(i)]);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  if (!of.is<std::string>()) return out;
  std::string text;
  for (value const& l : out) text += l.string();
  return text;
}

/// @param plus  the sign before a number: a sum although the operator says otherwise
inline value arithmetic(std::string_view op, value const& a, value const& b, int line, bool plus = false) {
  if (a.is<undefined>() || b.is<undefined>())
    fail(line,
         "'" + (a.is<undefined>() ? a : b).undefined_name() + "' is undefined, and something is computed with it");
  if (!a.is_number() || !b.is_number()) fail(line, "'" + std::string(op) + "' is applied to what is no number");
  bool const real = a.is<double>() || b.is<double>() || op == "/";
  double const x = a.number(), y = b.number();
  if ((op == "/" || op == "//" || op == "%") && y == 0) fail(line, "a number is divided by 0");
  if (op == "**" && (real || b.integer() < 0)) return std::pow(x, y);
  if (real) {
    if (plus || op == "+") return x + y;
    if (op == "-") return x - y;
    if (op == "*") return x * y;
    if (op == "/") return x / y;
    return op == "//" ? std::floor(x / y) : x - std::floor(x / y) * y;
  }
  std::int64_t const i = a.integer(), j = b.integer();
  std::int64_t out = 0;
  bool over = false;
  if (plus || op == "+") over = __builtin_add_overflow(i, j, &out);
  else if (op == "-") over = __builtin_sub_overflow(i, j, &out);
  else if (op == "*") over = __builtin_mul_overflow(i, j, &out);
  else if (op == "**") {
    out = 1;
    for (std::int64_t k = 0; k < j && !over && ((i != 1 && i != 0 && i != -1) || k < 2); ++k)
      over = __builtin_mul_overflow(out, i, &out);
    if (i == -1) out = j % 2 ? -1 : 1;
  } else if (j == -1) {
    over = op == "//" && __builtin_sub_overflow(std::int64_t(0), i, &out);
  } else {
    std::int64_t const rest = i % j != 0 && (i % j < 0) != (j < 0) ? i % j + j : i % j;
    out = op == "%" ? rest : (i - rest) / j;
  }
  if (over) fail(line, "a number becomes too large");
  return out;
}
inline bool less(value const& a, value const& b, int line) {
  if (a.is_number() && b.is_number()) return a.number() < b.number();
  if (a.is<std::string>() && b.is<std::string>()) return a.string() < b.string();
  if (a.is<list>() && b.is<list>())
    return std::lexicographical_compare(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                                        [&](value const& x, value const& y) { return less(x, y, line); });
  fail(line, "two values are compared that have no order");
}
inline bool contains(value const& all, value const& one, int line) {
  if (all.is<std::string>()) return all.string().find(to_string(one, line)) != std::string::npos;
  if (all.is<dict>()) return one.is<std::string>() && all.member(one.string());
  if (all.is<list>())
    return std::any_of(all.items().begin(), all.items().end(), [&](value const& i) { return equal(i, one); });
  if (all.is<undefined>()) return false;
  fail(line, "'in' is asked of a value that has no parts");
}
inline value repeated(value const& what, std::int64_t times, int line) {
  std::uint64_t const size = what.is<std::string>() ? what.string().size() : what.items().size();
  if (times > 0 && size > 0 && std::uint64_t(times) > 10'000'000 / size) fail(line, "a value is repeated too often");
  list items;
  std::string text;
  for (std::int64_t i = 0; i < (size ? times : 0); ++i)
    if (what.is<std::string>()) text += what.string();
    else items.insert(items.end(), what.items().begin(), what.items().end());
  return what.is<std::string>() ? value(std::move(text)) : value(std::move(items));
}
inline value binary(std::string_view op, value const& a, value const& b, int line) {
  if (op == "==") return equal(a, b);
  if (op == "!=") return !equal(a, b);
  if (op == "<") return less(a, b, line);
  if (op == ">") return less(b, a, line);
  if (op == "<=") return !less(b, a, line);
  if (op == ">=") return !less(a, b, line);
  if (op == "in") return contains(b, a, line);
  if (op == "not in") return !contains(b, a, line);
  if (op == "~") return to_text(a) + to_text(b);
  if (op == "+" && a.is<std::string>() && b.is<std::string>()) return a.string() + b.string();
  if (op == "+" && a.is<list>() && b.is<list>()) {
    list all = a.items();
    all.insert(all.end(), b.items().begin(), b.items().end());
    return all;
  }
  if (op == "*" && (a.is<std::string>() || a.is<list>()) && b.is<std::int64_t>()) return repeated(a, b.integer(), line);
  if (op == "*" && (b.is<std::string>() || b.is<list>()) && a.is<std::int64_t>()) return repeated(b, a.integer(), line);
  return arithmetic(op, a, b, line);
}

/// Without these letters, or without blanks, at the ends that are meant.
inline std::string stripped(std::string_view s, value const* letters, bool left, bool right, int line) {
  std::string_view const set =
      letters && !letters->is<value::none>() ? std::string_view(to_string(*letters, line)) : "";
  bool const blanks = !letters || letters->is<value::none>();
  auto const goes = [&](std::string_view l) {
    char32_t const c = decode_utf8(l, 0).value;
    return blanks ? is_space(c) || (c >= 0x1c && c <= 0x1f) : set.find(l) != std::string_view::npos;
  };
  while (left && !s.empty() && goes(s.substr(0, decode_utf8(s, 0).bytes))) s.remove_prefix(decode_utf8(s, 0).bytes);
  while (right && !s.empty() && goes(s.substr(previous_utf8(s, s.size())))) s = s.substr(0, previous_utf8(s, s.size()));
  return std::string(s);
}
inline std::string in_case(std::string_view s, bool upper) {
  std::string out;
  for_each_code_point(s, [&](code_point c) { append_utf8(out, upper ? upper_case(c.value) : lower_case(c.value)); });
  return out;
}
/// The first letter large and the rest small; with `words` of each word.
inline std::string capitalized(std::string_view s, bool words) {
  std::string out;
  bool first = true;
  for_each_code_point(s, [&](code_point c) {
    append_utf8(out, first ? upper_case(c.value) : lower_case(c.value));
    first = words && !in_categories(c.value, letter_categories);
  });
  return out;
}
inline std::string replaced(std::string_view s, std::string_view from, std::string_view to, std::int64_t most) {
  std::string out;
  std::size_t at = 0;
  for (; most != 0; --most) {
    std::size_t const found = s.find(from, at);
    if (found == std::string_view::npos) break;
    out += s.substr(at, found - at);
    out += to;
    at = found + from.size();
    if (from.empty()) {
      if (at >= s.size()) return out;
      std::size_t const bytes = decode_utf8(s, at).bytes;
      out += s.substr(at, bytes);
      at += bytes;
    }
    check_size(out, 0);
  }
  return out += s.substr(std::min(at, s.size()));
}
inline list split(std::string_view s, value const* separator, std::int64_t most, bool from_right, int line) {
  list out;
  if (!separator || separator->is<value::none>()) {  // at runs of blanks
    std::string word;
    for (std::string_view const l : letters_of(s))
      if (!is_space(decode_utf8(l, 0).value)) word += l;
      else if (!word.empty()) out.emplace_back(std::exchange(word, ""));
    if (!word.empty()) out.emplace_back(word);
    if (most >= 0 && most < std::int64_t(out.size())) fail(line, "split at blanks is supported without a limit only");
    return out;
  }
  std::string const& at = to_string(*separator, line);
  if (at.empty()) fail(line, "a text is split at nothing");
  while (most-- != 0) {
    std::size_t const found = from_right ? s.rfind(at) : s.find(at);
    if (found == std::string_view::npos) break;
    out.emplace_back(from_right ? s.substr(found + at.size()) : s.substr(0, found));
    s = from_right ? s.substr(0, found) : s.substr(found + at.size());
  }
  out.emplace_back(s);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

inline value method(value const& of, std::string const& name, arguments const& a, int line) {
  if (of.is<undefined>()) fail(line, "'" + of.undefined_name() + "' is undefined, and '" + name + "' is asked of it");
  auto const number = [&](std::size_t place, char const* key, std::int64_t otherwise) {
    value const* const v = a.find(place, key);
    return v ? to_integer(*v, line) : otherwise;
  };
  auto const text = [&](std::size_t place) -> std::string const& {
    value const* const v = a.find(place);
    if (!v) fail(line, name + " lacks an argument");
    return to_string(*v, line);
  };
  if (of.is<std::string>()) {
    std::string const& s = of.string();
    auto const starts = [&](bool at_end) {
      value const* const what = a.find(0);
      if (!what) fail(line, name + " lacks an argument");
      for (value const& one : what->is<list>() ? what->items() : list{*what})
        if (at_end ? s.ends_with(to_string(one, line)) : s.starts_with(to_string(one, line))) return true;
      return false;
    };
    if (name == "strip") return stripped(s, a.find(0), true, true, line);
    if (name == "lstrip") return stripped(s, a.find(0), true, false, line);
    if (name == "rstrip") return stripped(s, a.find(0), false, true, line);
    if (name == "startswith") return starts(false);
    if (name == "endswith") return starts(true);
    if (name == "split" || name == "rsplit")
      return split(s, a.find(0, "sep"), number(1, "maxsplit", -1), name == "rsplit", line);
    if (name == "splitlines") {
      list lines = split(replaced(s, "\r\n", "\n", -1), &static_cast<value const&>(value("\n")), -1, false, line);
      if (lines.back().string().empty()) lines.pop_back();
      return lines;
    }
    if (name == "upper") return in_case(s, true);
    if (name == "lower") return in_case(s, false);
    if (name == "capitalize") return capitalized(s, false);
    if (name == "title") return capitalized(s, true);
    if (name == "replace") return replaced(s, text(0), text(1), number(2, "count", -1));
    if (name == "removeprefix") return s.starts_with(text(0)) ? s.substr(text(0).size()) : s;
    if (name == "removesuffix") return s.ends_with(text(0)) ? s.substr(0, s.size() - text(0).size()) : s;
    if (name == "find" || name == "rfind") {
      std::size_t const found = name == "find" ? s.find(text(0)) : s.rfind(text(0));
      return found == std::string::npos ? std::int64_t(-1) : length_of(value(s.substr(0, found)), line);
    }
    if (name == "count") {
      if (text(0).empty()) return length_of(of, line) + 1;
      std::int64_t n = 0;
      for (std::size_t at = 0; (at = s.find(text(0), at)) != std::string::npos; at += text(0).size()) ++n;
      return n;
    }
    if (name == "join") {
      std::string out;
      bool first = true;
      for (value const& part : to_list(a.by_place.empty() ? value() : a.by_place[0], line)) {
        if (!std::exchange(first, false)) out += s;
        out += to_string(part, line);
        check_size(out, 0);
      }
      return out;
    }
    auto const every = [&](std::uint32_t categories) {
      bool all = !s.empty();
      for_each_code_point(s, [&](code_point c) { all = all && in_categories(c.value, categories); });
      return all;
    };
    if (name == "isdigit" || name == "isdecimal") return every(category_bit(category::Nd));
    if (name == "isalpha") return every(letter_categories);
    if (name == "isalnum") return every(letter_categories | number_categories);
    if (name == "isspace") return !s.empty() && stripped(s, nullptr, true, true, line).empty();
    if (name == "isupper") return in_case(s, true) == s && in_case(s, false) != s;
    if (name == "islower") return in_case(s, false) == s && in_case(s, true) != s;
  }
  if (of.is<dict>()) {
    list out;
    if (name == "get") {
      value const* const m = a.by_place.empty() ? nullptr : of.member(to_text(a.by_place[0]));
      value const* const otherwise = a.find(1, "default");
      return m ? *m : otherwise ? *otherwise : value(nullptr);
    }
    for (auto const& [key, m] : of.members()) {
      if (name == "keys") out.emplace_back(key);
      if (name == "values") out.push_back(m);
      if (name == "items") out.emplace_back(list{key, m});
    }
    if (name == "keys" || name == "values" || name == "items") return out;
  }
  if (of.is<list>() && (name == "index" || name == "count") && !a.by_place.empty()) {
    auto const same = [&](value const& i) { return equal(i, a.by_place[0]); };
    auto const& items = of.items();
    if (name == "count") return std::count_if(items.begin(), items.end(), same);
    auto const found = std::find_if(items.begin(), items.end(), same);
    if (found == items.end()) fail(line, "index finds no such value");
    return found - items.begin();
  }
  fail(line, "the method '" + name.substr(0, 40) + "' is not there, or changes a value, or is not supported");
}

inline bool test(std::string const& name, value const& v, arguments const& a, int line) {
  auto const other = [&]() -> value const& {
    if (a.by_place.empty()) fail(line, "the test '" + name + "' lacks an argument");
    return a.by_place[0];
  };
  if (name == "defined") return !v.is<undefined>();
  if (name == "undefined") return v.is<undefined>();
  if (name == "none") return v.is<value::none>();
  if (name == "string") return v.is<std::string>();
  if (name == "number") return v.is_number();
  if (name == "integer") return v.is<std::int64_t>();
  if (name == "float") return v.is<double>();
  if (name == "boolean") return v.is<bool>();
  if (name == "true") return v.is<bool>() && v.boolean();
  if (name == "false") return v.is<bool>() && !v.boolean();
  if (name == "mapping") return v.is<dict>() && !v.is_namespace();
  if (name == "iterable") return v.is<list>() || v.is<dict>() || v.is<std::string>() || v.is<undefined>();
  if (name == "sequence") return v.is<list>() || v.is<dict>() || v.is<std::string>() || v.is<undefined>();
  if (name == "callable") return v.is<function>();
  if (name == "odd") return arithmetic("%", v, value(2), line).number() == 1;
  if (name == "even") return arithmetic("%", v, value(2), line).number() == 0;
  if (name == "divisibleby") return arithmetic("%", v, other(), line).number() == 0;
  if (name == "in") return contains(other(), v, line);
  if (name == "lower") return in_case(to_text(v), false) == to_text(v) && in_case(to_text(v), true) != to_text(v);
  if (name == "upper") return in_case(to_text(v), true) == to_text(v) && in_case(to_text(v), false) != to_text(v);
  constexpr std::pair<std::string_view, std::string_view> operators[] = {
      {"eq", "=="}, {"equalto", "=="}, {"ne", "!="},         {"lt", "<"}, {"lessthan", "<"},
      {"le", "<="}, {"gt", ">"},       {"greaterthan", ">"}, {"ge", ">="}};
  for (auto const& [word, op] : operators)
    if (name == word) return binary(op, v, other(), line).truth();
  fail(line, "the test '" + name.substr(0, 40) + "' is not supported");
}

/// Whether select, reject, selectattr and rejectattr keep an item.
inline bool selects(value const& i, arguments const& a, std::size_t first, int line) {
  if (a.by_place.size() <= first) return i.truth();
  arguments const rest{{a.by_place.begin() + std::ptrdiff_t(first) + 1, a.by_place.end()}, {}};
  std::string const name = to_text(a.by_place[first]);
  for (std::string_view const op : {"==", "!=", "<", "<=", ">", ">="})
    if (name == op && !rest.by_place.empty()) return binary(op, i, rest.by_place[0], line).truth();
  return test(name, i, rest, line);
}

inline value apply_filter(std::string const& name, value const& v, arguments const& a, int line) {
  auto const flag = [&](std::size_t place, char const* key, bool otherwise) {
    value const* const f = a.find(place, key);
    return f ? f->truth() : otherwise;
  };
  auto const text = [&] { return to_text(v); };
  if (name == "trim") return stripped(text(), a.find(0, "chars"), true, true, line);
  if (name == "length" || name == "count") return length_of(v, line);
  if (name == "upper") return in_case(text(), true);
  if (name == "lower") return in_case(text(), false);
  if (name == "capitalize") return capitalized(text(), false);
  if (name == "title") return capitalized(text(), true);
  if (name == "string" || name == "safe") return text();
  if (name == "default" || name == "d") {
    bool const missing = v.is<undefined>() || (flag(1, "boolean", false) && !v.truth());
    value const* const otherwise = a.find(0, "default_value");
    return missing ? otherwise ? *otherwise : value("") : v;
  }
  if (name == "tojson") {
    value const* const indent = a.find(0, "indent");
    std::int64_t const blanks = indent && !indent->is<value::none>() ? to_integer(*indent, line) : -1;
    if (blanks > 100) fail(line, "tojson indents by more than 100");
    std::string out;
    append_json(out, v, int(blanks));
    return out;
  }
  if (name == "replace") {
    if (a.by_place.size() < 2) fail(line, "replace takes two texts");
    return replaced(text(), to_text(a.by_place[0]), to_text(a.by_place[1]),
                    a.find(2, "count") ? to_integer(*a.find(2, "count"), line) : -1);
  }
  if (name == "join") {
    std::string out;
    bool first = true;
    value const* const between = a.find(0, "d");
    value const* const attribute = a.find(1, "attribute");
    for (value const& i : to_list(v, line)) {
      if (!std::exchange(first, false) && between) out += to_text(*between);
      out += to_text(attribute ? path(i, *attribute, line) : i);
      check_size(out, 0);
    }
    return out;
  }
  if (name == "indent") {
    value const* const width = a.find(0, "width");
    std::string const blanks =
        width && width->is<std::string>()
            ? width->string()
            : std::string(std::size_t(std::clamp<std::int64_t>(width ? to_integer(*width, line) : 4, 0, 1000)), ' ');
    std::string out;
    list const lines = split(text(), &static_cast<value const&>(value("\n")), -1, false, line);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      bool const put = i == 0 ? flag(1, "first", false) : flag(2, "blank", false) || !lines[i].string().empty();
      if (i > 0) out += '\n';
      if (put) out += blanks;
      out += lines[i].string();
    }
    return out;
  }
  if (name == "int" || name == "float") {
    value const* const given = a.find(0, "default");
    value const otherwise = given ? *given : name == "int" ? value(0) : value(0.0);
    double d = 0;
    if (v.is_number()) d = v.number();
    else {
      std::string const s = stripped(text(), nullptr, true, true, line);
      auto const r = std::from_chars(s.data(), s.data() + s.size(), d);
      if (!v.is<std::string>() || r.ec != std::errc() || r.ptr != s.data() + s.size()) return otherwise;
    }
    if (name == "float") return d;
    if (v.is<std::int64_t>()) return v;
    return std::fabs(d) < 9e18 ? value(std::int64_t(d)) : otherwise;
  }
  if (name == "abs")
    return v.is<double>()            ? value(std::fabs(v.number()))
           : to_integer(v, line) < 0 ? arithmetic("-", value(0), v, line)
                                     : v;
  if (name == "round") {
    if (!v.is_number()) fail(line, "what is no number is rounded");
    value const* const digits = a.find(0, "precision");
    double const scale = std::pow(10.0, double(digits ? to_integer(*digits, line) : 0));
    return std::nearbyint(v.number() * scale) / scale;
  }
  if (name == "items") {
    if (v.is<undefined>()) return list{};
    if (!v.is<dict>()) fail(line, "items of what is no mapping are asked for");
    return method(v, "items", {}, line);
  }
  list items = to_list(v, line);
  if (name == "list") return items;
  if (name == "first" || name == "last")
    return items.empty() ? value(undefined{name}) : name == "first" ? items.front() : items.back();
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
    if (!v.is<std::string>()) return items;
    std::string out;
    for (value const& l : items) out += l.string();
    return out;
  }
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") {
    bool const of_member = name.ends_with("attr"), keeps = name.starts_with("select");
    if (of_member && a.by_place.empty()) fail(line, name + " lacks an argument");
    list out;
    for (value const& i : items)
      if (selects(of_member ? path(i, a.by_place[0], line) : i, a, of_member, line) == keeps) out.push_back(i);
    return out;
  }
  value const* const attribute = a.find(by_name_only, "attribute");
  auto const part = [&](value const& i) { return attribute ? path(i, *attribute, line) : i; };
  auto const ordered = [&](value const& x, value const& y) {
    bool const small = !flag(by_name_only, "case_sensitive", false);
    auto const folded = [&](value const& s) {
      return small && s.is<std::string>() ? value(in_case(s.string(), false)) : s;
    };
    return less(folded(part(x)), folded(part(y)), line);
  };
  if (name == "sort") {
    std::stable_sort(items.begin(), items.end(), ordered);
    if (flag(0, "reverse", false)) std::reverse(items.begin(), items.end());
    return items;
  }
  if (name == "min" || name == "max") {
    if (items.empty()) return undefined{name};
    return name == "min" ? *std::min_element(items.begin(), items.end(), ordered)
                         : *std::max_element(items.begin(), items.end(), ordered);
  }
  if (name == "sum") {
    value total = a.find(1, "start") ? *a.find(1, "start") : value(0);
    for (value const& i : items) total = arithmetic("+", total, part(i), line);
    return total;
  }
  if (name == "unique") {
    list out;
    for (value const& i : items)
      if (std::none_of(out.begin(), out.end(), [&](value const& o) { return equal(o, i); })) out.push_back(i);
    return out;
  }
  if (name == "dictsort" && v.is<dict>()) {
    std::stable_sort(items.begin(), items.end(), ordered);
    list out;
    for (value const& key : items) out.emplace_back(list{key, *v.member(key.string())});
    return out;
  }
  fail(line, "the filter '" + name.substr(0, 40) + "' is not supported");
}

}  // namespace tenon::text::jinja::detail
