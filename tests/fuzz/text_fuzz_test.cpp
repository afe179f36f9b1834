// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <fuzz/mutate.hpp>
#include <io/scratch_folder.hpp>
#include <tenon/core/json_text.hpp>
#include <tenon/text/jinja.hpp>
#include <tenon/text/jinja_json.hpp>
#include <tenon/text/tokenizer.hpp>
#include <tenon/text/tokenizer_json.hpp>
#include <text/samples.hpp>

namespace text = tenon::text;

/// Runs `check(input)` on mutations of the seeds, a fixed sequence of which slow builds do less. What it throws must be
/// one sentence of ours.
/// @return how many were accepted
template <class Check>
static int mutated(std::vector<std::string> const& seeds, std::uint32_t number, Check&& check) {
  mutator mutate(number);
  int accepted = 0, count = 0;
  auto const begin = std::chrono::steady_clock::now();
  for (; count < 30000 && std::chrono::steady_clock::now() - begin < std::chrono::seconds(2); ++count) {
    std::string const input = mutate(seeds[mutate.below(seeds.size())]);
    // Exactly as many bytes as there are, so that a sanitizer sees the first one beyond.
    std::unique_ptr<char[]> const copy(new char[input.size()]);
    input.copy(copy.get(), input.size());
    try {
      check(std::string_view(copy.get(), input.size()));
      ++accepted;
    } catch (tenon::error const& e) {
      if (!is_one_sentence(e.what())) FAIL("input " << count << " is refused with " << std::string(e.what()));
    }
  }
  MESSAGE(count << " inputs, " << accepted << " accepted");
  CHECK(count > 500);
  return accepted;
}

TEST_CASE("tokenizer.json: a mutated file is refused, or makes a tokenizer that works") {
  int const accepted = mutated({sample_tokenizer_json}, 1, [](std::string_view json) {
    text::tokenizer const t(text::parse_tokenizer_json(json));
    for (auto const id : t.encode("abc <mask>ab e\u0301\xff<|end|>")) (void)t.token(id);
  });
  CHECK(accepted > 20);
}
TEST_CASE("tokenizer: any bytes are encoded, and a byte-level vocabulary gives them back") {
  std::string json =
      R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"model":{"type":"BPE","vocab":{)";
  int next = 0;
  for (char32_t const l : text::detail::byte_alphabet::get().letters) {
    std::string letter;
    text::append_utf8(letter, l);
    json += (next ? "," : "");
    tenon::append_json_string(json, letter);
    json += ":" + std::to_string(next++);
  }
  text::tokenizer const t(text::parse_tokenizer_json(json + R"(,"th":256,"the":257},"merges":["t h","th e"]}})"));
  mutated({"the other \u00e9\U0001f600 \xff \xed\xa0\x80 it's 123\r\n  \t x"}, 2, [&](std::string_view s) {
    std::string back;
    for (auto const id : t.encode(s)) t.append_bytes(back, id);
    if (back != s) FAIL("'" << s << "' comes back as '" << back << "'");
  });
}
TEST_CASE("jinja: a mutated template is refused or rendered within its limits") {
  namespace jinja = text::jinja;
  jinja::dict const context = jinja::parse_json(R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant",
      "content":"<think>a</think>b"}],"tools":[{"name":"f","parameters":{"a":[1,2.5,null]}}]})")
                                  .members();
  std::vector<std::string> const seeds = {
      "{%- for m in messages %}{{ '<' ~ m.role ~ '>' + m['content'] | trim }}{% if loop.last %}x{% else %}y{% endif "
      "%}{% endfor %}",
      "{% set ns = namespace(a=1) %}{% macro f(x, y=2) %}{{ x }}{{ y | tojson(indent=2) }}{% endmacro %}{{ f(tools[0], "
      "ns) }}",
      "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}{{ 'abc'[::-1] }}",
      "{% for k, v in tools[0].items() %}{{ loop.index * 2 // 3 - -1 }}{{ k.split('a') }}{{ v is mapping and not v "
      "}}{% endfor %}"};
  int const accepted = mutated(seeds, 3, [&](std::string_view s) {
    (void)jinja::chat_template(s).render(context, {.steps = 100000, .bytes = 100000});
  });
  CHECK(accepted > 1000);
}
