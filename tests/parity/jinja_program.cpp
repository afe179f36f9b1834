// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Renders templates, for tests/parity/jinja_test.py: reads lines {"template": .., "context": {..}} and writes for each a
// line {"text": ..} or {"error": ..}.
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include <tenon/text/jinja.hpp>
#include <tenon/text/jinja_json.hpp>

int main() {
  namespace jinja = tenon::text::jinja;
  for (std::string line; std::getline(std::cin, line);) {
    jinja::dict result;
    try {
      jinja::value const asked = jinja::parse_json(line);
      jinja::chat_template const t(asked.member("template")->string());
      result.emplace_back("text", t.render(asked.member("context")->members()));
    } catch (std::exception const& e) {
      result.emplace_back("error", e.what());
    }
    std::string out;
    jinja::append_json(out, result);
    std::puts(out.c_str());
  }
}
