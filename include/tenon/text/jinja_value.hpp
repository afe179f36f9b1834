// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Values of templates: what Python has, as far as templates see it.   @test tests/text/jinja_test.cpp
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/text/utf8.hpp>

namespace tenon::text::jinja {

class value;
using list = std::vector<value>;
/// Keys in the order in which they came.
using dict = std::vector<std::pair<std::string, value>>;
/// Arguments of a call: by place and by name.
struct arguments;
using function = std::function<value(arguments const&)>;

/// What is not there. Printed it is nothing; asked for a member it is an error that names it.
struct undefined {
  std::string name;
};
struct list_box;
struct dict_box;

namespace detail {
// What is large is shared: copies cost nothing.
template <class T>
struct storage : std::type_identity<T> {};
template <>
struct storage<std::string> : std::type_identity<std::shared_ptr<std::string const>> {};
template <>
struct storage<list> : std::type_identity<std::shared_ptr<list_box>> {};
template <>
struct storage<dict> : std::type_identity<std::shared_ptr<dict_box>> {};
template <>
struct storage<function> : std::type_identity<std::shared_ptr<function>> {};
}  // namespace detail

class value {
 public:
  using none = std::nullptr_t;
  value() : v(undefined{}) {}
  value(undefined u) : v(std::move(u)) {}
  value(none) : v(nullptr) {}
  value(bool b) : v(b) {}
  template <class T>
    requires(std::is_integral_v<T> && !std::is_same_v<T, bool>)
  value(T n) : v(std::int64_t(n)) {}
  value(double d) : v(d) {}
  value(std::string s) : v(std::make_shared<std::string const>(std::move(s))) {}
  value(std::string_view s) : value(std::string(s)) {}
  value(char const* s) : value(std::string(s)) {}
  value(list items);
  value(dict members);
  value(function f) : v(std::make_shared<function>(std::move(f))) {}

  template <class T>
  bool is() const {
    return std::holds_alternative<stored<T>>(v);
  }
  bool is_number() const { return is<std::int64_t>() || is<double>() || is<bool>(); }
  bool boolean() const { return std::get<bool>(v); }
  std::string const& string() const { return *std::get<stored<std::string>>(v); }
  std::string const& undefined_name() const { return std::get<undefined>(v).name; }
  list const& items() const;
  dict const& members() const;
  dict& changeable_members();
  function const& callable() const { return *std::get<std::shared_ptr<function>>(v); }
  void const* identity() const { return is<dict>() ? std::get<std::shared_ptr<dict_box>>(v).get() : nullptr; }
  /// True for a namespace, whose members a template may set.
  bool is_namespace() const;
  static value make_namespace(dict members);
  std::int64_t integer() const {
    return is<bool>() ? boolean() : is<double>() ? std::int64_t(std::get<double>(v)) : std::get<std::int64_t>(v);
  }
  double number() const { return is<double>() ? std::get<double>(v) : double(integer()); }
  value const* member(std::string_view key) const;
  /// How many lists and dicts lie in each other here.
  int depth() const;
  /// How much there is to look at, as often as it is there; never too small.
  std::uint64_t weight() const;

  bool truth() const {
    if (is<bool>()) return boolean();
    if (is<std::string>()) return !string().empty();
    if (is<list>()) return !items().empty();
    if (is<dict>()) return !members().empty() || is_namespace();
    return is_number() ? number() != 0 : is<function>();
  }

 private:
  template <class T>
  using stored = typename detail::storage<T>::type;
  std::variant<undefined, none, bool, std::int64_t, double, std::shared_ptr<std::string const>,
               std::shared_ptr<list_box>, std::shared_ptr<dict_box>, std::shared_ptr<function>>
      v;
};

struct arguments {
  list by_place;
  dict by_name;
  /// The argument at `place`, or with that name; null when it is not given.
  value const* find(std::size_t place, std::string_view name = {}) const {
    if (place < by_place.size()) return &by_place[place];
    for (auto const& [key, v] : by_name)
      if (key == name) return &v;
    return nullptr;
  }
};
struct list_box {
  list parts;
  int depth = 1;
  std::uint64_t weight = 1;
};
struct dict_box {
  dict parts;
  int depth = 1;
  std::uint64_t weight = 1;
  bool is_namespace = false;
};

inline constexpr int deepest_value = 200;  // they are printed, compared and freed by recursion
inline constexpr std::uint64_t heaviest_value = std::uint64_t(1) << 40;

namespace detail {
template <class Box, class Parts, class ValueOf>
std::shared_ptr<Box> boxed(Parts parts, ValueOf&& value_of) {
  auto box = std::make_shared<Box>();
  for (auto const& p : parts) {
    box->depth = std::max(box->depth, value_of(p).depth() + 1);
    box->weight = std::min(box->weight + value_of(p).weight(), heaviest_value);
  }
  if (box->depth > deepest_value) throw argument_error("tenon::text::jinja: values are nested too deeply");
  box->parts = std::move(parts);
  return box;
}
}  // namespace detail

inline value::value(list items)
    : v(detail::boxed<list_box>(std::move(items), [](value const& i) -> value const& { return i; })) {}
inline value::value(dict members)
    : v(detail::boxed<dict_box>(std::move(members), [](auto const& m) -> value const& { return m.second; })) {}
inline value value::make_namespace(dict members) {
  value out(std::move(members));
  std::get<std::shared_ptr<dict_box>>(out.v)->is_namespace = true;
  return out;
}
inline bool value::is_namespace() const { return is<dict>() && std::get<std::shared_ptr<dict_box>>(v)->is_namespace; }
inline list const& value::items() const { return std::get<std::shared_ptr<list_box>>(v)->parts; }
inline dict const& value::members() const { return std::get<std::shared_ptr<dict_box>>(v)->parts; }
inline dict& value::changeable_members() { return std::get<std::shared_ptr<dict_box>>(v)->parts; }
inline int value::depth() const {
  return is<list>()   ? std::get<std::shared_ptr<list_box>>(v)->depth
         : is<dict>() ? std::get<std::shared_ptr<dict_box>>(v)->depth
                      : 0;
}
inline std::uint64_t value::weight() const {
  return is<list>()          ? std::get<std::shared_ptr<list_box>>(v)->weight
         : is<dict>()        ? std::get<std::shared_ptr<dict_box>>(v)->weight
         : is<std::string>() ? string().size() / 16 + 1
                             : 1;
}
inline value const* value::member(std::string_view key) const {
  if (is<dict>())
    for (auto const& [name, v_] : members())
      if (name == key) return &v_;
  return nullptr;
}

/// What Python's `==` says.
inline bool equal(value const& a, value const& b) {
  if (a.is_number() && b.is_number())
    return a.is<double>() || b.is<double>() ? a.number() == b.number() : a.integer() == b.integer();
  if (a.is<std::string>() && b.is<std::string>()) return a.string() == b.string();
  if (a.is<list>() && b.is<list>())
    return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(), equal);
  if (a.is_namespace() || b.is_namespace()) return a.identity() == b.identity();
  if (a.is<dict>() && b.is<dict>()) {
    if (a.members().size() != b.members().size()) return false;
    return std::all_of(a.members().begin(), a.members().end(), [&](auto const& m) {
      value const* const other = b.member(m.first);
      return other && equal(m.second, *other);
    });
  }
  return (a.is<value::none>() && b.is<value::none>()) || (a.is<undefined>() && b.is<undefined>());
}

namespace detail {

/// A number as Python writes it.
inline void append_number(std::string& out, double d) {
  if (!std::isfinite(d)) {
    out += std::isnan(d) ? "nan" : d < 0 ? "-inf" : "inf";
    return;
  }
  char buffer[64];
  double const size = std::fabs(d);
  bool const plain = size == 0 || (size >= 1e-4 && size < 1e16);
  auto const r = plain ? std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::fixed)
                       : std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific);
  std::string_view const written(buffer, std::size_t(r.ptr - buffer));
  out += written;
  if (plain && written.find('.') == std::string_view::npos) out += ".0";
}

/// Text within quotes, as Python's repr has it.
inline void append_quoted(std::string& out, std::string_view s) {
  char const quote = s.find('\'') != std::string_view::npos && s.find('"') == std::string_view::npos ? '"' : '\'';
  constexpr char const* digits = "0123456789abcdef";
  out += quote;
  for (char const c : s) {
    auto const byte = static_cast<std::uint8_t>(c);
    if (c == quote || c == '\\') (out += '\\') += c;
    else if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (c == '\t') out += "\\t";
    else if (byte < 0x20 || byte == 0x7f) ((out += "\\x") += digits[byte >> 4]) += digits[byte & 15];
    else out += c;
  }
  out += quote;
}

inline constexpr std::size_t longest_text = std::size_t(1) << 28;
inline void check_size(std::string const& out, int depth) {
  if (depth > deepest_value || out.size() > longest_text)
    throw argument_error("tenon::text::jinja: a value is too large as text, or holds itself");
}

inline void append_text(std::string& out, value const& v, bool quoted, int depth = 0) {
  check_size(out, depth);
  if (v.is<std::string>()) {
    if (quoted) append_quoted(out, v.string());
    else out += v.string();
  } else if (v.is<bool>()) {
    out += v.boolean() ? "True" : "False";
  } else if (v.is<value::none>()) {
    out += "None";
  } else if (v.is<std::int64_t>()) {
    out += std::to_string(v.integer());
  } else if (v.is<double>()) {
    append_number(out, v.number());
  } else if (v.is<list>()) {
    char const* between = "";
    out += '[';
    for (auto const& i : v.items()) append_text(out += std::exchange(between, ", "), i, true, depth + 1);
    out += ']';
  } else if (v.is<dict>()) {
    char const* between = "";
    out += '{';
    for (auto const& [key, m] : v.members()) {
      append_quoted(out += std::exchange(between, ", "), key);
      append_text(out += ": ", m, true, depth + 1);
    }
    out += '}';
  } else if (v.is<function>()) {
    out += "<function>";
  } else if (quoted) {
    out += "Undefined";
  }
}

}  // namespace detail

/// What Python's `str` makes of a value.
inline std::string to_text(value const& v) {
  std::string out;
  detail::append_text(out, v, false);
  return out;
}

/// What Python's `json.dumps` makes of a value: blanks after ',' and ':', letters as they are.
/// @param indent  blanks per level, each member on a line of its own; below 0: all on one line
/// @error argument_error for what JSON does not have
inline void append_json(std::string& out, value const& v, int indent = -1, int depth = 0) {
  auto const line = [&](int level) {
    if (indent >= 0) out += '\n', out.append(std::size_t(indent * level), ' ');
  };
  auto const quoted = [&](std::string_view s) {
    constexpr char const* digits = "0123456789abcdef";
    constexpr std::string_view escaped = "\b\t\n\f\r\"\\", letters = "btnfr\"\\";
    out += '"';
    for (char const c : s) {
      auto const byte = static_cast<std::uint8_t>(c);
      if (std::size_t const k = escaped.find(c); k != std::string_view::npos) (out += '\\') += letters[k];
      else if (byte < 0x20) ((out += "\\u00") += digits[byte >> 4]) += digits[byte & 15];
      else out += c;
    }
    out += '"';
  };
  auto const all = [&](char open, char close, auto const& parts, auto&& put) {
    out += open;
    bool first = true;
    for (auto const& p : parts) {
      if (!std::exchange(first, false)) out += indent >= 0 ? "," : ", ";
      line(depth + 1);
      put(p);
    }
    if (!first) line(depth);
    out += close;
  };
  detail::check_size(out, depth);
  if (v.is<std::string>()) quoted(v.string());
  else if (v.is<bool>()) out += v.boolean() ? "true" : "false";
  else if (v.is<value::none>()) out += "null";
  else if (v.is<list>()) all('[', ']', v.items(), [&](value const& i) { append_json(out, i, indent, depth + 1); });
  else if (v.is<dict>())
    all('{', '}', v.members(), [&](auto const& m) {
      quoted(m.first);
      append_json(out += ": ", m.second, indent, depth + 1);
    });
  else if (v.is_number()) detail::append_text(out, v, false);
  else throw argument_error("tenon::text: an undefined value or a function is no JSON. Fix: tojson of a value.");
}

}  // namespace tenon::text::jinja
