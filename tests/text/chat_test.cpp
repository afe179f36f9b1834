// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>

#include <tenon/text/chat.hpp>

namespace text = tenon::text;
namespace jinja = tenon::text::jinja;

static std::string rendered(std::string_view name, jinja::list messages, bool prompt = true) {
  return jinja::chat_template(text::built_in_template(name))
      .render({{"messages", std::move(messages)},
               {"add_generation_prompt", prompt},
               {"bos_token", "<s>"},
               {"eos_token", "</s>"}});
}
static jinja::value said(char const* role, char const* content) {
  return jinja::dict{{"role", role}, {"content", content}};
}

TEST_CASE("chat: the built-in formats") {
  jinja::list const chat = {said("system", "Be brief."), said("user", " Hi "), said("assistant", "Yes?"),
                            said("user", "Bye")};
  CHECK(rendered("gemma", chat) ==
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n");
  CHECK(rendered("chatml", {said("user", "Hi")}) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  CHECK(rendered("qwen", {said("user", "Hi")}, false) ==
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
  CHECK(rendered("llama3", chat)
            .ends_with("<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>"
                       "assistant<|end_header_id|>\n\n"));
  CHECK(rendered("llama2", chat) ==
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Yes? </s><s>[INST] Bye [/INST]");
  CHECK(rendered("mistral", chat) == "<s>[INST]  Hi  [/INST] Yes?</s>[INST] Be brief.\n\nBye [/INST]");
  CHECK_THROWS_AS((void)rendered("gemma", {said("assistant", "Hi")}), tenon::argument_error);
  CHECK_THROWS_AS((void)text::built_in_template("none"), tenon::argument_error);
}
