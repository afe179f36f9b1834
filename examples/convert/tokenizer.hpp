// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
// The tokenizer of a folder as keys of GGUF.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <tenon/text/byte_vocabulary.hpp>

#include "metadata.hpp"

namespace convert {

/// Token types, as GGUF numbers them.
enum token_type : std::int32_t { normal = 1, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;

  void put(std::size_t id, std::string text, token_type type) {
    while (tokens.size() <= id) {
      tokens.push_back("[PAD" + std::to_string(tokens.size()) + "]");
      types.push_back(unused);
    }
    tokens[id] = std::move(text);
    types[id] = type;
  }
};

/// @error file_error when the model has no such token
inline std::size_t id_of(json const& id, std::size_t count, std::string const& file) {
  auto const i = id.get<std::size_t>();
  if (i >= count)
    throw tenon::file_error(file, "has a token " + std::to_string(i) + ", but the model has " + std::to_string(count) +
                                      ". Fix: use the tokenizer of this model.");
  return i;
}

/// The bytes themselves, which train_gpt learns: a byte-level BPE without merges. Byte 0 stands between documents.
inline void set_byte_tokens(io::gguf_metadata& metadata, std::size_t count) {
  auto const bytes = tenon::text::byte_vocabulary();
  vocabulary v;
  for (std::size_t b = 0; b < bytes.tokens.size(); ++b)
    v.put(b, std::string(bytes.tokens[b]), token_type(bytes.types[b]));
  if (count > 256) v.put(count - 1, "[PAD" + std::to_string(count - 1) + "]", unused);
  metadata.set("tokenizer.ggml.model", "gpt2");
  metadata.set("tokenizer.ggml.pre", "gpt-2");
  metadata.set("tokenizer.ggml.tokens", v.tokens);
  metadata.set("tokenizer.ggml.token_type", v.types);
  metadata.set("tokenizer.ggml.merges", std::vector<std::string>());
  metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t(0));
  metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t(0));
  metadata.set("tokenizer.ggml.add_bos_token", false);
}

/// A tokenizer.json that holds a WordPiece of lower case. What begins a word is marked, what goes on is not.
inline void set_word_pieces(io::gguf_metadata& metadata, json const& tokenizer, std::size_t count,
                            std::string const& file) {
  json const normalizer = tokenizer.value("normalizer", json());
  if (!normalizer.is_object() || !normalizer.value("lowercase", false))
    throw tenon::file_error(file, "keeps upper case, which a GGUF file of a bert does not. Fix: --no-tokenizer.");
  vocabulary v;
  for (auto const& [text, id] : tokenizer.at("model").at("vocab").items())
    v.put(id_of(id, count, file), text.rfind("##", 0) == 0 ? text.substr(2) : "\xe2\x96\x81" + text, normal);
  for (auto const& t : tokenizer.value("added_tokens", json::array()))
    v.put(id_of(t.at("id"), count, file), t.at("content").get<std::string>(), control);
  metadata.set("tokenizer.ggml.model", "bert");
  metadata.set("tokenizer.ggml.tokens", v.tokens);
  metadata.set("tokenizer.ggml.token_type", v.types);
  for (auto const& [text, key] : {std::pair("[UNK]", "unknown"), std::pair("[CLS]", "cls"),
                                  std::pair("[SEP]", "seperator"), std::pair("[PAD]", "padding")})
    if (auto const at = std::find(v.tokens.begin(), v.tokens.end(), text); at != v.tokens.end())
      metadata.set(std::string("tokenizer.ggml.") + key + "_token_id", std::uint32_t(at - v.tokens.begin()));
}

/// A tokenizer.json that holds a BPE: of bytes, with its merges; or of characters with byte fallback, as SentencePiece
/// has it, where the rank of the merge that makes a token is its score.
inline void set_tokenizer(io::gguf_metadata& metadata, json const& tokenizer, json const& config, std::size_t count,
                          std::string const& file) {
  auto const& model = tokenizer.at("model");
  if (model.value("type", "") == "WordPiece") return set_word_pieces(metadata, tokenizer, count, file);
  if (model.value("type", "BPE") != "BPE" || !model.contains("merges"))
    throw tenon::file_error(file, "holds no BPE but a '" + model.value("type", "?") +
                                      "'. Fix: use the converter of llama.cpp for this model, or --no-tokenizer.");
  bool const is_spm = model.value("byte_fallback", false);
  vocabulary v;
  auto const put = [&](json const& id, std::string const& text, token_type type) {
    v.put(id_of(id, count, file), text, type);
  };
  for (auto const& [text, id] : model.at("vocab").items()) {
    bool const is_byte = is_spm && text.size() == 6 && text.rfind("<0x", 0) == 0;
    put(id, text, is_byte ? byte : normal);
  }
  for (auto const& t : tokenizer.value("added_tokens", json::array()))
    put(t.at("id"), t.at("content").get<std::string>(), t.value("special", false) ? control : user_defined);
  if (v.tokens.size() < count) v.put(count - 1, "[PAD" + std::to_string(count - 1) + "]", unused);

  std::vector<std::string> merges;
  for (auto const& m : model.at("merges"))
    merges.push_back(m.is_string() ? m.get<std::string>()
                                   : m.at(0).get<std::string>() + " " + m.at(1).get<std::string>());
  metadata.set("tokenizer.ggml.model", is_spm ? "llama" : "gpt2");
  metadata.set("tokenizer.ggml.tokens", v.tokens);
  metadata.set("tokenizer.ggml.token_type", v.types);
  if (is_spm) {
    std::vector<float> scores(v.tokens.size(), -1000.0f);
    for (std::size_t rank = merges.size(); rank-- > 0;) {
      auto const& m = merges[rank];
      auto const made = model.at("vocab").find(m.substr(0, m.find(' ')) + m.substr(m.find(' ') + 1));
      if (made != model.at("vocab").end()) scores.at(made->get<std::size_t>()) = -float(rank);
    }
    metadata.set("tokenizer.ggml.pre", "default");
    metadata.set("tokenizer.ggml.scores", scores);
    metadata.set("tokenizer.ggml.add_space_prefix", tokenizer.dump().find("Prepend") != std::string::npos);
  } else {
    // The patterns that cut text before BPE differ in how they take numbers.
    std::string const cut = tokenizer.value("pre_tokenizer", json()).dump();
    metadata.set("tokenizer.ggml.pre", cut.find("{1,3}") != std::string::npos       ? "llama-bpe"
                                       : cut.find("\\\\p{N}|") != std::string::npos ? "qwen2"
                                                                                    : "gpt-2");
    metadata.set("tokenizer.ggml.merges", merges);
  }
  for (char const* name : {"bos", "eos", "pad"}) {
    json id = config.value(std::string(name) + "_token_id", json());
    if (id.is_array() && !id.empty()) id = id[0];
    std::string const key = std::string("tokenizer.ggml.") + (name[0] == 'p' ? "padding" : name) + "_token_id";
    if (id.is_number_unsigned()) metadata.set(key, id.get<std::uint32_t>());
  }
  // A template that puts the first token there is the sign of models that want one.
  metadata.set("tokenizer.ggml.add_bos_token",
               tokenizer.value("post_processor", json()).dump().find("\"SpecialToken\"") != std::string::npos);
}

}  // namespace convert
