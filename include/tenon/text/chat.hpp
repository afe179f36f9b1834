// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Chats as the text that a model was trained on.   @test tests/text/chat_test.cpp
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/text/jinja.hpp>
#include <tenon/text/tokenizer.hpp>

namespace tenon::text {

struct message {
  std::string role, content;
};

namespace detail {

struct named_template {
  std::string_view name, text;
};
/// Common formats, for files that bring no template. They are shorter than the models' own: no tools, no images.
inline constexpr named_template built_in_templates[] = {
    {"chatml", R"({% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %})"},
    {"qwen", R"({% if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %})"},
    {"llama2",
     R"({% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must alternate') }}{% endif %}
{%- if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ (system if loop.first else '') ~ m.content|trim ~ ' [/INST]' }}{% else %}{{ ' ' ~ m.content|trim ~ ' ' ~ eos_token }}{% endif %}
{%- endfor %})"},
    {"llama3",
     R"({{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ m.content|trim ~ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %})"},
    {"gemma",
     R"({{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content ~ '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must alternate') }}{% endif %}
{{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' ~ (system if loop.first else '') ~ m.content|trim ~ '<end_of_turn>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %})"},
    {"mistral",
     R"({{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content ~ '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must alternate') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST] ' ~ (system if loop.last else '') ~ m.content ~ ' [/INST]' }}{% else %}{{ ' ' ~ m.content ~ eos_token }}{% endif %}
{%- endfor %})"}};

}  // namespace detail

/// The text of a built-in template: chatml, qwen, llama2, llama3, gemma, mistral.
/// @error argument_error that lists the names for another one
inline std::string_view built_in_template(std::string_view name) {
  std::string known;
  for (auto const& t : detail::built_in_templates) {
    if (t.name == name) return t.text;
    known.append(known.empty() ? "" : ", ").append(t.name);
  }
  throw argument_error("tenon::text: there is no chat template '" + std::string(name.substr(0, 50)) +
                       "'. Fix: one of " + known + ", or the template itself.");
}

/// The variables of a template for these messages. The begin token comes from the template: encode the text with
/// `{.add_special = false}`, or it is there twice.
inline jinja::dict chat_context(tokenizer const& t, std::vector<message> const& messages, bool add_generation_prompt) {
  jinja::list all;
  for (auto const& m : messages) all.emplace_back(jinja::dict{{"role", m.role}, {"content", m.content}});
  auto const spelled = [&](token_id id) { return id == no_token ? jinja::value("") : jinja::value(t.token(id)); };
  return {{"messages", std::move(all)},
          {"add_generation_prompt", add_generation_prompt},
          {"bos_token", spelled(t.parts().beginning)},
          {"eos_token", spelled(t.parts().end)}};
}

/// The tokens of a chat, ready for the model to go on.
inline std::vector<token_id> encode_chat(tokenizer const& t, jinja::chat_template const& how,
                                         std::vector<message> const& messages) {
  return t.encode(how.render(chat_context(t, messages, true)), {.add_special = false, .parse_special = true});
}

}  // namespace tenon::text
