// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <io/gguf_samples.hpp>

/// A vocabulary as Gemma has it, very small: specials, bytes, a user's tokens, and pieces with scores.
inline std::string sample_gguf_vocabulary(bool space_prefix, std::string_view model = "llama") {
  struct entry {
    std::string text;
    std::int32_t type;
    float score;
  };
  std::vector<entry> all = {{"<unk>", 2, 0}, {"<bos>", 3, 0}, {"<eos>", 3, 0}, {"\n\n", 4, 0}, {"<b>", 4, 0}};
  for (int b = 0; b < 256; ++b) {
    constexpr char const* digits = "0123456789ABCDEF";
    all.push_back({std::string("<0x") + digits[b >> 4] + digits[b & 15] + ">", 6, 0});
  }
  float score = 0;
  for (char const* piece :
       {"he",     "ll", "\u2581w", "or",     "hell", "hello", "\u2581wor", "\u2581world", "d>\u2581<",
        "\u2581", "a",  "b",       "d",      "e",    "h",     "l",         "o",           "r",
        "w",      "<",  ">",       "\u00e9", "aa",   "ld",    "d>",        "\u2581<"})
    all.push_back({piece, 1, score--});
  gguf_bytes f;
  f.head(0, 8);
  f.key("tokenizer.ggml.model", 8).text(model);
  f.key("tokenizer.ggml.tokens", 9).u32(8).u64(all.size());
  for (auto const& e : all) f.text(e.text);
  f.key("tokenizer.ggml.scores", 9).u32(6).u64(all.size());
  for (auto const& e : all) f.number(e.score);
  f.key("tokenizer.ggml.token_type", 9).u32(5).u64(all.size());
  for (auto const& e : all) f.number(e.type);
  f.key("tokenizer.ggml.bos_token_id", 4).u32(1);
  f.key("tokenizer.ggml.eos_token_id", 4).u32(2);
  f.key("tokenizer.ggml.unknown_token_id", 4).u32(0);
  f.key("tokenizer.ggml.add_space_prefix", 7).number(std::uint8_t(space_prefix));
  return f.pad(32).out;
}

/// A byte-level tokenizer.json with a few merges.
inline std::string const sample_tokenizer_json =
    R"({"added_tokens":[{"id":12,"content":"<|end|>","special":true},)"
    R"({"id":13,"content":"<mask>","special":true,"lstrip":true}],"normalizer":{"type":"NFC"},)"
    R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},)"
    R"("post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"<|end|>"}}]},)"
    R"("model":{"type":"BPE","vocab":{"a":0,"b":1,"Ġ":2,"c":3,"ab":4,"Ġab":5,"Ã":6,"©":7,"Ã©":8,"abc":9,"ð":10,"Ł":11},)"
    R"("merges":["a b","Ġ ab",["Ã","©"],"ab c"]}})";
