// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The vocabulary in a GGUF file.   @test tests/text/tokenizer_test.cpp
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <tenon/core/error.hpp>
#include <tenon/io/gguf.hpp>
#include <tenon/text/cut_patterns.hpp>
#include <tenon/text/vocabulary.hpp>

namespace tenon::text {

/// Reads the keys tokenizer.ggml.*. The views point into the file, which must live longer.
/// @error file_error when a key is missing or wrong, or names what is not supported
inline vocabulary read_vocabulary(io::gguf_file const& file) {
  auto const key = [](char const* name) { return std::string("tokenizer.ggml.") + name; };
  auto const flag = [&](char const* name, bool otherwise) {
    return file.find_value<bool>(key(name)).value_or(otherwise);
  };
  auto const id = [&](char const* name, token_id otherwise = no_token) {
    return file.find_value<token_id>(key(name)).value_or(otherwise);
  };
  auto const list = [&](char const* name) {
    auto const strings = file.find_value<io::gguf_strings>(key(name));
    constexpr std::uint32_t length_bytes = 8;
    return strings ? string_list(*strings, length_bytes) : string_list();
  };
  vocabulary v;
  v.tokens = list("tokens");
  if (auto const scores = file.find_value<io::packed_values<float>>(key("scores"))) v.scores = *scores;
  if (auto const types = file.find_value<io::packed_values<std::int32_t>>(key("token_type"))) v.types = *types;
  v.beginning = id("bos_token_id");
  v.end = id("eos_token_id");
  v.unknown = id("unknown_token_id");
  v.padding = id("padding_token_id");
  std::string_view const model = file.get<std::string_view>(key("model"));
  bool begins = false, ends = false;
  if (model == "gpt2") {
    v.merges = list("merges");
    std::string_view const pre = file.find_value<std::string_view>(key("pre")).value_or("default");
    detail::named_cuts const* const cuts = detail::find_named_cuts(pre);
    if (!cuts)
      throw file_error(file.name(), "cuts its text as '" + std::string(pre.substr(0, 50)) +
                                        "', which is not supported. Fix: use the model's tokenizer.json.");
    for (auto const& e : cuts->expressions) v.cuts.push_back({.where = pattern(e)});
    if (cuts->nfc) v.normalizations.push_back({normalization::step::nfc});
    v.byte_level = true;
    v.whole_words_first = cuts->whole_words_first;
    begins = cuts->begins;
    if (flag("add_space_prefix", false)) v.space_prefix = vocabulary::prefix::first;
  } else if (model == "llama" || model == "t5") {
    v.how = model == "t5" ? algorithm::unigram : algorithm::scores;
    v.adds_in_fp32 = true;
    v.escapes_spaces = v.byte_fallback = true;
    if (flag("add_space_prefix", true)) v.space_prefix = vocabulary::prefix::sections;
    if (auto const map = file.find_value<io::packed_values<std::uint8_t>>(key("precompiled_charsmap"))) {
      std::vector<std::uint8_t> const bytes = map->to_vector();
      v.normalizations.push_back({normalization::step::charsmap, {}, std::string(bytes.begin(), bytes.end())});
    }
    if (flag("remove_extra_whitespaces", false)) {
      v.normalizations.push_back({normalization::step::replace, pattern(" {2,}"), " "});
      v.normalizations.push_back({normalization::step::replace, pattern("^ | $"), ""});
    }
    begins = model == "llama";
    ends = !begins;
  } else if (model == "bert") {
    v.how = algorithm::word_piece;
    v.normalizations = detail::bert_normalizations(true, true, true, true);
    v.cuts = detail::bert_cuts();
    v.word_prefix = "\xe2\x96\x81";
    v.beginning = id("cls_token_id", v.beginning);
    v.end = id("seperator_token_id", v.end);  // spelled so
    begins = ends = true;
  } else {
    throw file_error(file.name(), "has a vocabulary of the kind '" + std::string(model.substr(0, 50)) +
                                      "'. Fix: tenon reads llama, gpt2, t5 and bert.");
  }
  if (flag("add_bos_token", begins) && v.beginning != no_token) v.before.push_back(v.beginning);
  if (flag("add_eos_token", ends) && v.end != no_token) v.after.push_back(v.end);
  return v;
}

}  // namespace tenon::text
