// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The expressions that well-known vocabularies cut text with, by the names that GGUF files use.
#include <string>
#include <string_view>
#include <vector>

#include <tenon/text/vocabulary.hpp>

namespace tenon::text {

inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace detail {

struct named_cuts {
  std::string_view names;  ///< each between blanks
  std::vector<std::string_view> expressions;
  bool whole_words_first = false, begins = false, nfc = false;
};

/// @return nullptr for a name that is not known
inline named_cuts const* find_named_cuts(std::string_view name) {
  static std::vector<named_cuts> const all = {
      {" default ",
       {R"([\p{P}\$\+<=>\^~\|]+)", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))",
        R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {" gpt-2 phi-2 mpt olmo jina-es jina-de jina-v2-es jina-v2-de jina-v2-code gigachat roberta-bpe a.x-4.0 mellum "
       "modern-bert ",
       {gpt2_pattern}},
      {" llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ", {llama3_pattern}, true, true},
      {" dbrx smaug-bpe chatglm-bpe ", {llama3_pattern}},
      {" qwen2 stablelm2 hunyuan deepseek-r1-qwen megrez ", {qwen2_pattern}, false, false, true},
      {" starcoder refact command-r smollm codeshell exaone minerva-7b ", {R"(\p{N})", gpt2_pattern}},
      {" falcon ", {R"([\p{P}\$\+<=>\^~\|`]+)", gpt2_pattern, "[0-9][0-9][0-9]"}},
      {" bloom gpt3-finnish ", {R"( ?[^(\s|.,!?…。，、।۔،)]+)"}},
      {" deepseek-v3 ",
       {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {" tekken ",
       {R"([^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       true},
      {" gpt-4o llama4 ",
       {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}};
  for (auto const& c : all)
    if (name.find(' ') == std::string_view::npos &&
        c.names.find(std::string(" ").append(name) + " ") != std::string_view::npos)
      return &c;
  return nullptr;
}

/// BERT's words: blanks go, a punctuation mark is a word.
inline std::vector<cut> bert_cuts() {
  return {{pattern(R"(\s+)"), cut::behaviour::removed}, {pattern(R"([!-/:-@\[-`{-~\p{P}])")}};
}
inline std::vector<normalization> bert_normalizations(bool clean, bool ideographs, bool accents, bool lower) {
  using step = normalization::step;
  std::vector<normalization> out;
  if (clean) out.push_back({step::clean});
  if (ideographs) out.push_back({step::space_ideographs});
  if (accents) out.insert(out.end(), {{step::nfd}, {step::drop_accents}});
  if (lower) out.push_back({step::lower_case});
  return out;
}

}  // namespace detail
}  // namespace tenon::text
