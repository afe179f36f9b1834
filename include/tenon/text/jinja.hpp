// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Chat templates: the part of Jinja that model files use, as Hugging Face's transformers renders it (trim_blocks,
/// lstrip_blocks, immutable values).   @source jinja.palletsprojects.com   @test tests/text/jinja_test.cpp
#include <algorithm>
#include <cstdint>
#include <ctime>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/text/jinja_filters.hpp>
#include <tenon/text/jinja_parser.hpp>
#include <tenon/text/jinja_value.hpp>

namespace tenon::text::jinja {

/// What one rendering may cost. A template from a stranger cannot hang or fill the memory.
struct limits {
  std::uint64_t steps = 20'000'000;
  std::size_t bytes = std::size_t(64) << 20;  ///< of text that is out or in one value
};

namespace detail {

/// Walks the tree.
class renderer {
 public:
  renderer(dict const& context, limits most) : budget(most) {
    scopes.emplace_back();
    for (auto const& [name, v] : context) scopes[0].emplace_back(name, v);
    define_functions();
  }
  // Namespaces may hold each other.
  ~renderer() {
    for (auto& n : namespaces) n.changeable_members().clear();
  }
  renderer(renderer const&) = delete;
  renderer& operator=(renderer const&) = delete;

  std::string run(node const& tree) {
    std::string out;
    execute(tree, out);
    return out;
  }

 private:
  enum class flow { on, stop, next };
  using scope = std::vector<std::pair<std::string, value>>;

  void step(int at, std::uint64_t cost = 1) {
    line = at;
    if (budget.steps < cost) fail(at, "it does more than any chat needs");
    budget.steps -= cost;
  }
  value checked(value v) {
    if (v.is<std::string>()) {
      if (v.string().size() > budget.bytes)
        fail(line, "a text has more than " + std::to_string(budget.bytes) + " bytes");
      step(line, v.string().size() / 64);
    } else if (v.is<list>()) {
      step(line, v.items().size());
    } else if (v.is<dict>()) {
      step(line, v.members().size());
    }
    return v;
  }
  void put(std::string& out, std::string_view text) {
    if (text.size() > budget.bytes || out.size() > budget.bytes - text.size())
      fail(line, "the text has more than " + std::to_string(budget.bytes) + " bytes");
    out += text;
  }

  value* find(std::string_view name) {
    for (std::size_t s = scopes.size(); s-- > 0;)
      for (auto& [key, v] : scopes[s])
        if (key == name) return &v;
    return nullptr;
  }
  void assign(std::string const& name, value v) {
    step(line, scopes.back().size() / 16);
    for (auto& [key, old] : scopes.back())
      if (key == name) {
        old = std::move(v);
        return;
      }
    scopes.back().emplace_back(name, std::move(v));
  }
  void assign(node const& target, value v) {
    if (target.what == kind::name) return assign(target.text, std::move(v));
    value* const n = find(target.children[0].text);
    if (!n || !n->is_namespace()) fail(target.line, "only members of a namespace can be set");
    for (auto& [key, old] : n->changeable_members())
      if (key == target.text) {
        old = std::move(v);
        return;
      }
    n->changeable_members().emplace_back(target.text, std::move(v));
  }
  void unpack(std::vector<std::string> const& names, value const& v, int at) {
    if (names.size() == 1) return assign(names[0], v);
    if (!v.is<list>() || v.items().size() != names.size())
      fail(at, "there are not as many values as the " + std::to_string(names.size()) + " names");
    for (std::size_t i = 0; i < names.size(); ++i) assign(names[i], v.items()[i]);
  }

  flow execute(node const& n, std::string& out) {
    step(n.line);
    auto const& c = n.children;
    switch (n.what) {
      case kind::text: put(out, n.text); break;
      case kind::print: put(out, to_text(evaluate(c[0]))); break;
      case kind::block:
        for (node const& s : c)
          if (flow const f = execute(s, out); f != flow::on) return f;
        break;
      case kind::condition:
        if (evaluate(c[0]).truth()) return execute(c[1], out);
        if (c.size() > 2) return execute(c[2], out);
        break;
      case kind::loop: return loop(n, out);
      case kind::set: {
        value v = evaluate(c[1]);
        if (n.names.empty()) assign(c[0], std::move(v));
        else unpack(n.names, v, n.line);
        break;
      }
      case kind::set_block: {
        value text(captured(c[2]));
        assign(c[0], c[1].what == kind::nothing ? text : with_subject(c[1], text));
        break;
      }
      case kind::filter_block: put(out, to_text(with_subject(c[0], value(captured(c[1]))))); break;
      case kind::macro: assign(n.text, make_macro(n, 1)); break;
      case kind::call_block: {
        scopes.emplace_back();
        assign("caller", make_macro(n, 1));
        value const v = evaluate(c.back());
        scopes.pop_back();
        put(out, to_text(v));
        break;
      }
      case kind::stop: return flow::stop;
      case kind::next: return flow::next;
      default: fail(n.line, "this is no statement");
    }
    return flow::on;
  }
  std::string captured(node const& body) {
    std::string text;
    scopes.emplace_back();
    execute(body, text);
    scopes.pop_back();
    return text;
  }
  /// The value of filters that are applied to a text.
  value with_subject(node const& filters, value subject) {
    pending = std::move(subject);
    return evaluate(filters);
  }

  flow loop(node const& n, std::string& out) {
    list items = to_list(evaluate(n.children[0]), n.line);
    step(n.line, items.size());
    scopes.emplace_back();
    if (n.children[1].what != kind::nothing) {
      list kept;
      for (value& i : items) {
        unpack(n.names, i, n.line);
        if (evaluate(n.children[1]).truth()) kept.push_back(std::move(i));
      }
      items = std::move(kept);
    }
    flow f = flow::on;
    std::size_t const count = items.size();
    for (std::size_t i = 0; i < count; ++i) {
      scopes.back().clear();
      unpack(n.names, items[i], n.line);
      assign("loop", dict{{"index", i + 1},
                          {"index0", i},
                          {"first", i == 0},
                          {"last", i + 1 == count},
                          {"length", count},
                          {"revindex", count - i},
                          {"revindex0", count - i - 1},
                          {"previtem", i > 0 ? items[i - 1] : value(undefined{"previtem"})},
                          {"nextitem", i + 1 < count ? items[i + 1] : value(undefined{"nextitem"})},
                          {"cycle", function([i](arguments const& a) {
                             return a.by_place.empty() ? value() : a.by_place[i % a.by_place.size()];
                           })}});
      f = execute(n.children[2], out);
      if (f == flow::stop) break;
    }
    scopes.pop_back();
    if (count == 0 && n.children.size() > 3) return execute(n.children[3], out);
    return flow::on;
  }
  /// A macro sees what is at the top of the template, and its arguments.
  value make_macro(node const& n, std::size_t defaults) {
    return function([this, &n, defaults](arguments const& a) {
      deeper const here(*this, n.line);
      if (a.by_place.size() > n.names.size()) fail(line, "macro " + n.text + " takes fewer arguments");
      std::vector<scope> caller(std::make_move_iterator(scopes.begin() + 1), std::make_move_iterator(scopes.end()));
      scopes.resize(1);
      struct restore {
        std::vector<scope>& to;
        std::vector<scope>& from;
        ~restore() {
          to.resize(1);
          std::move(from.begin(), from.end(), std::back_inserter(to));
        }
      } const back{scopes, caller};
      scopes.emplace_back();
      for (std::size_t i = 0; i < n.names.size(); ++i) {
        value const* const given = a.find(i, n.names[i]);
        node const& otherwise = n.children[defaults + i];
        assign(n.names[i], given                             ? *given
                           : otherwise.what == kind::nothing ? value(undefined{n.names[i]})
                                                             : evaluate(otherwise));
      }
      if (value const* const c = a.find(a.by_place.size(), "caller")) assign("caller", *c);
      std::string out;
      execute(n.children[0], out);
      return value(std::move(out));
    });
  }

  struct deeper {
    renderer& r;
    deeper(renderer& whole, int at) : r(whole) {
      if (++r.depth > 60) fail(at, "macros call each other too deeply");
    }
    ~deeper() { --r.depth; }
    deeper(deeper const&) = delete;
    deeper& operator=(deeper const&) = delete;
  };

  value evaluate(node const& n) {
    step(n.line);
    auto const& c = n.children;
    switch (n.what) {
      case kind::nothing: return std::exchange(pending, value());
      case kind::literal: return n.constant;
      case kind::name: {
        value const* const v = find(n.text);
        return v ? *v : value(undefined{n.text});
      }
      case kind::list_of: {
        list items;
        for (node const& i : c) items.push_back(evaluate(i));
        return items;
      }
      case kind::dict_of: {
        dict members;
        for (std::size_t i = 0; i + 1 < c.size(); i += 2) {
          step(n.line, members.size());
          set_member(members, to_text(evaluate(c[i])), evaluate(c[i + 1]));
        }
        return members;
      }
      case kind::member: return member(evaluate(c[0]), n.text, n.line);
      case kind::item: return item(evaluate(c[0]), evaluate(c[1]), n.line);
      case kind::slice: {
        value const of = evaluate(c[0]);
        return checked(slice(of, evaluate(c[1]), evaluate(c[2]), evaluate(c[3]), n.line));
      }
      case kind::call: return call(n);
      case kind::filter: {
        value subject = evaluate(c[0]);
        return checked(filter(n.text, subject, evaluate_arguments(n)));
      }
      case kind::test: {
        value subject = evaluate(c[0]);
        return test(n.text, subject, evaluate_arguments(n), n.line);
      }
      case kind::negation: return !evaluate(c[0]).truth();
      case kind::minus:
      case kind::plus: return checked(arithmetic("-", value(0), evaluate(c[0]), n.line, n.what == kind::plus));
      case kind::binary: {
        value const left = evaluate(c[0]);
        value const right = evaluate(c[1]);
        step(n.line, left.weight() + right.weight());
        return checked(binary(n.text, left, right, n.line));
      }
      case kind::both: {
        value left = evaluate(c[0]);
        return left.truth() ? evaluate(c[1]) : left;
      }
      case kind::either: {
        value left = evaluate(c[0]);
        return left.truth() ? left : evaluate(c[1]);
      }
      case kind::choice: return evaluate(evaluate(c[0]).truth() ? c[1] : c[2]);
      default: fail(n.line, "this is no expression");
    }
  }
  arguments evaluate_arguments(node const& n) {
    arguments a;
    for (std::size_t i = 1; i < n.children.size(); ++i)
      if (n.children[i].what == kind::keyword)
        a.by_name.emplace_back(n.children[i].text, evaluate(n.children[i].children[0]));
      else a.by_place.push_back(evaluate(n.children[i]));
    return a;
  }
  value call(node const& n) {
    node const& of = n.children[0];
    if (of.what == kind::member) {
      value const subject = evaluate(of.children[0]);
      value const* const own = subject.member(of.text);
      step(n.line, subject.weight());
      if (!own || !own->is<function>()) return checked(method(subject, of.text, evaluate_arguments(n), n.line));
      return checked(own->callable()(evaluate_arguments(n)));
    }
    value const f = evaluate(of);
    if (f.is<undefined>()) fail(n.line, "'" + f.undefined_name() + "' is undefined");
    if (!f.is<function>()) fail(n.line, "a value that is no function is called");
    arguments a = evaluate_arguments(n);
    if (of.what == kind::name && scopes.size() > 1)
      for (auto const& [key, v] : scopes.back())
        if (key == "caller") a.by_name.emplace_back(key, v);
    return checked(f.callable()(a));
  }
  value filter(std::string const& name, value const& subject, arguments const& a) {
    if (name == "map") {
      list out;
      value const* const attribute = a.find(std::numeric_limits<std::size_t>::max(), "attribute");
      for (value const& i : to_list(subject, line)) {
        step(line);
        if (attribute) {
          value v = path(i, *attribute, line);
          value const* const otherwise = a.find(std::numeric_limits<std::size_t>::max(), "default");
          out.push_back(v.is<undefined>() && otherwise ? *otherwise : v);
        } else {
          arguments rest{{a.by_place.begin() + std::min<std::ptrdiff_t>(1, std::ssize(a.by_place)), a.by_place.end()},
                         a.by_name};
          out.push_back(filter(a.by_place.empty() ? "" : to_text(a.by_place[0]), i, rest));
        }
      }
      return out;
    }
    step(line, subject.weight() * (name == "unique" && subject.is<list>() ? subject.items().size()
                                   : name == "sort"                       ? 20
                                                                          : 1));
    return apply_filter(name, subject, a, line);
  }

  void define_functions() {
    auto const define = [&](char const* name, function f) {
      if (!find(name)) scopes[0].emplace_back(name, value(std::move(f)));
    };
    define("range", [this](arguments const& a) {
      std::int64_t bounds[3] = {0, 0, 1};
      std::size_t const n = a.by_place.size();
      if (n < 1 || n > 3) fail(line, "range takes one to three numbers");
      for (std::size_t i = 0; i < n; ++i) bounds[n == 1 ? 1 : i] = to_integer(a.by_place[i], line);
      if (bounds[2] == 0) fail(line, "range cannot take steps of 0");
      list out;
      for (std::int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
        step(line);
        out.emplace_back(i);
        if (__builtin_add_overflow(i, bounds[2], &i)) break;
      }
      return value(std::move(out));
    });
    define("namespace", [this](arguments const& a) {
      dict members = a.by_place.empty() || !a.by_place[0].is<dict>() ? dict{} : a.by_place[0].members();
      for (auto const& [name, v] : a.by_name) set_member(members, name, v);
      return namespaces.emplace_back(value::make_namespace(std::move(members)));
    });
    define("dict", [](arguments const& a) {
      dict members = a.by_place.empty() || !a.by_place[0].is<dict>() ? dict{} : a.by_place[0].members();
      for (auto const& [name, v] : a.by_name) set_member(members, name, v);
      return value(std::move(members));
    });
    define("raise_exception", [this](arguments const& a) -> value {
      fail(line, "it says '" + (a.by_place.empty() ? "" : to_text(a.by_place[0])).substr(0, 1000) + "'");
    });
    define("strftime_now", [this](arguments const& a) {
      std::string const format = a.by_place.empty() ? "%Y-%m-%d" : to_text(a.by_place[0]);
      if (format.size() > 200) fail(line, "the format of a time is too long");
      std::time_t const now = std::time(nullptr);
      std::tm local{};
      ::localtime_r(&now, &local);
      char text[2000];
      return value(std::string(text, std::strftime(text, sizeof text, format.c_str(), &local)));
    });
  }

  limits budget;
  std::vector<scope> scopes;
  std::vector<value> namespaces;
  value pending;
  int line = 1, depth = 0;
};

}  // namespace detail

/// A template that has been read.
/// @error argument_error with the line for what is wrong in it or is not supported   @test tests/text/jinja_test.cpp
class chat_template {
 public:
  static constexpr std::size_t most_bytes = std::size_t(1) << 20;
  explicit chat_template(std::string_view text) {
    if (text.size() > most_bytes)
      throw argument_error("tenon::text::jinja: a template of " + std::to_string(text.size()) +
                           " bytes is too long. Fix: at most " + std::to_string(most_bytes) + ".");
    tree = std::make_shared<detail::node const>(detail::parser(text).run());
  }
  /// @param context  the variables, e.g. messages, add_generation_prompt, bos_token, tools
  /// @error argument_error with the line for what goes wrong, and for what the template itself raises
  std::string render(dict const& context, limits most = {}) const { return detail::renderer(context, most).run(*tree); }

 private:
  std::shared_ptr<detail::node const> tree;
};

}  // namespace tenon::text::jinja
