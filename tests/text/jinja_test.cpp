// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>

#include <io/scratch_folder.hpp>
#include <tenon/text/jinja.hpp>
#include <tenon/text/jinja_json.hpp>

namespace jinja = tenon::text::jinja;

static std::string rendered(std::string_view text, std::string_view context = "{}") {
  return jinja::chat_template(text).render(jinja::parse_json(context).members());
}

TEST_CASE("jinja: blanks around blocks, loops, macros, namespaces") {
  CHECK(rendered("a\n  {% if true %}\n  b\n  {% endif %}\nc\n") == "a\n  b\nc");
  CHECK(rendered("{% for k, v in d.items() %}{{ loop.index }}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}",
                 R"({"d":{"b":1,"a":[true,null,"x"]}})") == "1b=1,2a=[True, None, 'x']");
  CHECK(rendered("{% set ns = namespace(n=0) %}{% for i in range(4) if i != 2 %}{% set ns.n = ns.n + i %}{% endfor "
                 "%}{{ ns.n }}") == "4");
  CHECK(rendered("{% macro m(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) ~ m(b=3, a='x') }}") == "[12][x3]");
  CHECK(rendered("{{ m | tojson }} {{ m | tojson(indent=1) }}", R"({"m":{"z":1.0,"a":["\u00e9\n"]}})") ==
        "{\"z\": 1.0, \"a\": [\"\u00e9\\n\"]} {\n \"z\": 1.0,\n \"a\": [\n  \"\u00e9\\n\"\n ]\n}");
  CHECK(rendered("{{ 'h\u00e9llo'[1:3] ~ (7 // 2) ~ (-7 % 3) ~ 'a,b'.split(',')[-1] }}") == "\u00e9l32b");
}
TEST_CASE("jinja: errors name the line") {
  for (auto const& one : {std::pair{"\n\n{{ x.y }}", "line 3"},
                          {"{% if x %}", "endif"},
                          {"{{ 1 +", "no end"},
                          {"\n{{ raise_exception('why') }}", "line 2.*'why'"},
                          {"{% nothing %}", "nothing"},
                          {"{{ [1].append(2) }}", "append"},
                          {"{{ 1 // 0 }}", "divided"},
                          {"{{ ) }}", "closes"},
                          {"{{ 9223372036854775807 + 1 }}", "too large"}}) {
    auto const text = one.first, what = one.second;  // names of a binding cannot be captured
    CAPTURE(text);
    try {
      (void)rendered(text);
      FAIL("accepted");
    } catch (tenon::argument_error const& e) {
      CHECK(is_one_sentence(e.what()));
      std::string const rest = std::string(what).substr(std::string(what).find_last_of('*') + 1);
      CHECK(std::string(e.what()).find(rest) != std::string::npos);
    }
  }
}
TEST_CASE("jinja: a hostile template ends, soon and with an error") {
  std::string const deep_list =
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
  std::string chain = "{{ 1";
  for (int i = 0; i < 50000; ++i) chain += "+1";
  for (std::string const& text :
       {std::string("{% for a in range(100000000) %}{% endfor %}"), std::string("{{ 'x' * 10000000000 }}"),
        std::string("{% set ns = namespace(x='x') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"),
        std::string("{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor "
                    "%}{{ ns.x == ns.x }}"),
        std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), deep_list, chain + " }}",
        std::string(100000, '('), "{{ " + std::string(5000, '(') + " }}", "{{ " + std::string(5000, '-') + "1 }}",
        std::string("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}"),
        std::string("{{ range(3000)|list|unique|list ~ (range(100000)|unique|list) }}")}) {
    CAPTURE(text.substr(0, 80));
    if (text[0] == '(') CHECK(rendered(text) == text);  // nothing but text
    else CHECK_THROWS_AS((void)rendered(text), tenon::argument_error);
  }
  CHECK_THROWS_AS((void)jinja::parse_json(std::string(100000, '[')), tenon::argument_error);
  CHECK_THROWS_AS((void)jinja::parse_json("{"), tenon::argument_error);
}
