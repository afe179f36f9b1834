// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Hugging Face's tokenizer.json.   @source the library `tokenizers`, whose names the file has
/// @test tests/text/tokenizer_test.cpp, tests/parity/tokenizer_test.py
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/core/error.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/text/byte_alphabet.hpp>
#include <tenon/text/cut_patterns.hpp>
#include <tenon/text/vocabulary.hpp>

namespace tenon::text {
namespace detail {

/// Receives the JSON parser's events. The tokens and merges, which are most of the file, go into lists; the rest into
/// `rest`.
class tokenizer_json_reader {
 public:
  using json = nlohmann::json;
  struct entry {
    std::size_t begin = 0, bytes = 0;
    std::uint64_t id = 0;
    double score = 0;
  };
  json rest;
  std::string pool;
  std::vector<entry> tokens, merges;
  std::string what;

  bool null() { return value(nullptr); }
  bool boolean(bool b) { return value(b); }
  bool number_integer(std::int64_t n) { return number(double(n)) || value(n); }
  bool number_unsigned(std::uint64_t n) {
    if (list == bulk::tokens && !tokens.empty()) tokens.back().id = n;
    return number(double(n)) || value(n);
  }
  bool number_float(double n, std::string const&) { return number(n) || value(n); }
  bool binary(json::binary_t&) { return false; }
  bool string(std::string& s) {
    if (list == bulk::none) return value(std::move(s));
    if (list == bulk::tokens) return add(tokens, s), true;
    if (depth == bulk_depth || !left) return left = depth > bulk_depth, add(merges, s), true;
    left = false;  // the second of a pair
    if (s.find(' ') != std::string::npos || pool.find(' ', merges.back().begin) != std::string::npos)
      return what = "has a merge of tokens with blanks in them", false;
    (pool += ' ') += s;
    merges.back().bytes += 1 + s.size();
    return true;
  }
  bool key(std::string& s) {
    if (list == bulk::tokens) return add(tokens, s), true;
    return name = std::move(s), true;
  }
  bool start_object(std::size_t) { return start(json::object()); }
  bool start_array(std::size_t) { return start(json::array()); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }
  bool parse_error(std::size_t at, std::string const&, json::exception const&) {
    if (what.empty()) what = "is no JSON at byte " + std::to_string(at);
    return false;
  }

 private:
  enum class bulk { none, tokens, merges };
  void add(std::vector<entry>& to, std::string const& s) {
    to.push_back({pool.size(), s.size()});
    pool += s;
  }
  bool number(double n) {
    if (list == bulk::tokens && !tokens.empty()) tokens.back().score = n;
    return list != bulk::none;
  }
  json* put(json v) {
    if (open.empty()) return &(rest = std::move(v));
    json& in = *open.back();
    if (in.is_array()) return in.push_back(std::move(v)), &in.back();
    return &(in[name] = std::move(v));
  }
  bool value(json v) {
    if (list == bulk::none) put(std::move(v));
    return true;
  }
  bool start(json v) {
    ++depth;
    if (list != bulk::none) return true;
    if (depth == 3 && in_model && (name == "vocab" || name == "merges")) {
      list = name == "vocab" ? bulk::tokens : bulk::merges;
      bulk_depth = depth;
      return true;
    }
    if (depth > 64) return what = "is nested too deeply", false;
    if (depth == 2) in_model = name == "model";
    open.push_back(put(std::move(v)));
    return true;
  }
  bool end() {
    left = false;
    if (list == bulk::none) open.pop_back();
    else if (depth == bulk_depth) list = bulk::none;
    --depth;
    return true;
  }

  std::vector<json*> open;
  std::string name;
  bulk list = bulk::none;
  int depth = 0, bulk_depth = 0;
  bool in_model = false, left = false;
};

/// Turns what was read into a vocabulary.
class tokenizer_json_builder {
 public:
  using json = nlohmann::json;
  tokenizer_json_builder(std::string_view text, std::string const& name) : file(name) {
    if (!json::sax_parse(text, &reader)) wrong(reader.what);
    if (!reader.rest.is_object()) wrong("is not an object");
  }
  vocabulary build() {
    model(part(reader.rest, "model"));
    add_tokens();
    normalizer(part(reader.rest, "normalizer"));
    pre_tokenizer(part(reader.rest, "pre_tokenizer"));
    if (text_of(part(reader.rest, "decoder"), "type") == "ByteLevel") v.byte_level = true;
    post_processor(part(reader.rest, "post_processor"));
    return std::move(v);
  }

 private:
  [[noreturn]] void wrong(std::string const& what) const {
    throw file_error(file, on_one_line(what) + ". Fix: use a tokenizer.json as Hugging Face's tokenizers writes it.");
  }
  [[noreturn]] void unsupported(char const* kind, std::string const& type) const {
    wrong("has the " + std::string(kind) + " '" + type.substr(0, 50) + "', which is not supported");
  }
  /// A member; null where it is missing.
  json const& part(json const& in, char const* name) const {
    static json const nothing;
    if (!in.is_object()) return nothing;
    auto const found = in.find(name);
    return found == in.end() ? nothing : *found;
  }
  std::string text_of(json const& in, char const* name) const {
    json const& p = part(in, name);
    return p.is_string() ? p.get<std::string>() : "";
  }
  bool flag(json const& in, char const* name, bool otherwise = false) const {
    json const& p = part(in, name);
    return p.is_boolean() ? p.get<bool>() : otherwise;
  }
  json const& list(json const& in, char const* name) const {
    json const& p = part(in, name);
    if (!p.is_array()) wrong(std::string("lacks the list '") + name + "'");
    return p;
  }
  token_id id_of(std::string const& token) const {
    for (std::size_t i = 0; i < v.tokens.size(); ++i)
      if (v.tokens[i] == token) return token_id(i);
    wrong("names the token '" + token.substr(0, 50) + "', which it does not have");
  }
  token_id id_at(json const& number) const {
    if (!number.is_number_unsigned() || number.get<std::uint64_t>() >= most_tokens) wrong("has a token without an id");
    return token_id(number.get<std::uint64_t>());
  }

  void model(json const& m) {
    std::string const type = text_of(m, "type");
    v.byte_fallback = flag(m, "byte_fallback");
    if (type == "BPE" || (type.empty() && !reader.merges.empty())) {
      if (!text_of(m, "continuing_subword_prefix").empty() || !text_of(m, "end_of_word_suffix").empty())
        unsupported("model", "BPE with marked word parts");
      v.whole_words_first = flag(m, "ignore_merges");
      v.fuses_unknown = flag(m, "fuse_unk");
    } else if (type == "Unigram") {
      v.how = algorithm::unigram;
      for (std::size_t i = 0; i < reader.tokens.size(); ++i) reader.tokens[i].id = i;
    } else if (type == "WordPiece") {
      v.how = algorithm::word_piece;
      v.continuation_prefix = text_of(m, "continuing_subword_prefix");
      json const& most = part(m, "max_input_chars_per_word");
      if (most.is_number() && most != 100) unsupported("model", "WordPiece with a limit that is not 100");
    } else {
      unsupported("model", type);
    }
    collect();
    if (std::string const unknown = text_of(m, "unk_token"); !unknown.empty()) v.unknown = id_of(unknown);
    else if (part(m, "unk_id").is_number()) v.unknown = id_at(part(m, "unk_id"));
    if (v.unknown >= 0 && std::size_t(v.unknown) < content->types.size())
      content->types[std::size_t(v.unknown)] = std::int32_t(token_type::unknown);
  }
  /// Lists of tokens and merges as views into the pool.
  void collect() {
    json const& added = part(reader.rest, "added_tokens");
    if (added.is_array())
      for (json const& a : added) {
        std::string const spelling = text_of(a, "content");
        reader.tokens.push_back({reader.pool.size(), spelling.size(), std::uint64_t(id_at(part(a, "id"))), 0});
        reader.pool += spelling;
      }
    std::uint64_t size = 0;
    for (auto const& t : reader.tokens) {
      if (t.id >= most_tokens) wrong("has a token with an absurd id");
      size = std::max(size, t.id + 1);
    }
    if (size > 2 * reader.tokens.size() + 65536) wrong("has a token with an absurd id");
    auto const view = [](std::string const& pool, tokenizer_json_reader::entry const& e) {
      return std::string_view(pool).substr(e.begin, e.bytes);
    };
    std::vector<tokenizer_json_reader::entry> in_order(size);
    content->types.assign(size, std::int32_t(token_type::unused));
    for (auto const& t : reader.tokens) {
      bool const spells_byte = v.byte_fallback && t.bytes == 6 && view(reader.pool, t).starts_with("<0x");
      content->types[t.id] = std::int32_t(spells_byte ? token_type::byte : token_type::normal);
      in_order[t.id] = t;
    }
    content->tokens.reserve(reader.pool.size());
    for (auto& t : in_order) {
      content->scores.push_back(float(t.score));
      content->tokens += view(reader.pool, t);
      t.begin = content->tokens.size() - t.bytes;
    }
    content->merges = std::move(reader.pool);
    std::vector<std::string_view> views;
    for (auto const& t : in_order) views.push_back(view(content->tokens, t));
    v.tokens = string_list(views, 0);
    views.clear();
    for (auto const& m : reader.merges) views.push_back(view(content->merges, m));
    v.merges = string_list(views, 0);
    v.types = {reinterpret_cast<std::byte const*>(content->types.data()), size};
    if (v.how == algorithm::unigram) v.scores = {reinterpret_cast<std::byte const*>(content->scores.data()), size};
    v.storage = content;
  }
  void add_tokens() {
    json const& added = part(reader.rest, "added_tokens");
    if (!added.is_array()) return;
    for (json const& a : added) {
      if (flag(a, "single_word")) unsupported("added token", "that stands alone, " + text_of(a, "content"));
      token_id const id = id_at(part(a, "id"));
      content->types[std::size_t(id)] =
          std::int32_t(flag(a, "special") ? token_type::control : token_type::user_defined);
      added_token const wish{id, flag(a, "lstrip"), flag(a, "rstrip"), flag(a, "normalized")};
      if (wish.strips_left || wish.strips_right || wish.normalized) v.added.push_back(wish);
    }
  }

  static std::string escaped(std::string_view literal) {
    std::string out;
    for (char const c : literal) {
      if (c > ' ' && c < 0x7f && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z')) out += '\\';
      out += c;
    }
    return out;
  }
  pattern read_pattern(json const& p) const {
    if (part(p, "Regex").is_string()) return pattern(text_of(p, "Regex"));
    if (part(p, "String").is_string()) return pattern(escaped(text_of(p, "String")));
    wrong("has a pattern that is neither a Regex nor a String");
  }
  static std::string from_base64(std::string_view s) {
    std::string out;
    std::uint32_t bits = 0, count = 0;
    for (char const c : s) {
      int const value = c >= 'A' && c <= 'Z'   ? c - 'A'
                        : c >= 'a' && c <= 'z' ? c - 'a' + 26
                        : c >= '0' && c <= '9' ? c - '0' + 52
                        : c == '+'             ? 62
                        : c == '/'             ? 63
                                               : -1;
      if (value < 0) continue;
      bits = bits << 6 | std::uint32_t(value);
      if ((count += 6) >= 8) out += char(bits >> (count -= 8) & 0xff);
    }
    return out;
  }

  void normalizer(json const& n) {
    using step = normalization::step;
    if (n.is_null()) return;
    std::string const type = text_of(n, "type");
    auto const add = [&](step s, pattern where = {}, std::string to = {}) {
      v.normalizations.push_back({s, std::move(where), std::move(to)});
    };
    if (type == "Sequence") {
      for (json const& one : list(n, "normalizers")) normalizer(one);
    } else if (type == "NFC") {
      add(step::nfc);
    } else if (type == "NFD") {
      add(step::nfd);
    } else if (type == "Lowercase") {
      add(step::lower_case);
    } else if (type == "StripAccents") {
      add(step::drop_marks);
    } else if (type == "BertNormalizer") {
      bool const lower = flag(n, "lowercase", true);
      for (auto& one : bert_normalizations(flag(n, "clean_text", true), flag(n, "handle_chinese_chars", true),
                                           flag(n, "strip_accents", lower), lower))
        v.normalizations.push_back(std::move(one));
    } else if (type == "Prepend" && text_of(n, "prepend") == space_mark) {
      v.space_prefix = vocabulary::prefix::always;
    } else if (type == "Prepend") {
      add(step::prepend, {}, text_of(n, "prepend"));
    } else if (type == "Replace" && text_of(part(n, "pattern"), "String") == " " &&
               text_of(n, "content") == space_mark) {
      v.escapes_spaces = true;
    } else if (type == "Replace") {
      add(step::replace, read_pattern(part(n, "pattern")), text_of(n, "content"));
    } else if (type == "Strip") {
      if (flag(n, "strip_left", true)) add(step::strip_left);
      if (flag(n, "strip_right", true)) add(step::strip_right);
    } else if (type == "Precompiled") {
      add(step::charsmap, {}, from_base64(text_of(n, "precompiled_charsmap")));
    } else {
      unsupported("normalizer", type);
    }
  }

  cut::behaviour read_behaviour(json const& p) const {
    std::string const name = text_of(p, "behavior");
    if (name == "Isolated") return cut::behaviour::isolated;
    if (name == "Removed") return cut::behaviour::removed;
    if (name == "MergedWithPrevious") return cut::behaviour::with_previous;
    if (name == "MergedWithNext") return cut::behaviour::with_next;
    unsupported("behaviour of cuts", name);
  }
  void pre_tokenizer(json const& p) {
    if (p.is_null()) return;
    std::string const type = text_of(p, "type");
    using behaviour = cut::behaviour;
    auto const add = [&](std::string_view expression, behaviour b) { v.cuts.push_back({pattern(expression), b}); };
    if (type == "Sequence") {
      for (json const& one : list(p, "pretokenizers")) pre_tokenizer(one);
    } else if (type == "ByteLevel") {
      v.byte_level = true;
      if (flag(p, "add_prefix_space", true)) {
        v.space_prefix = vocabulary::prefix::always;
        v.prefix_unless_space = true;
      }
      if (flag(p, "use_regex", true)) add(gpt2_pattern, behaviour::isolated);
    } else if (type == "Split") {
      // Blanks are U+2581 by now, so a cut at blanks finds nothing.
      if (v.escapes_spaces && text_of(part(p, "pattern"), "String") == " ") return;
      v.cuts.push_back({read_pattern(part(p, "pattern")), read_behaviour(p), flag(p, "invert")});
    } else if (type == "Digits") {
      add(flag(p, "individual_digits") ? R"(\p{N})" : R"(\p{N}+)", behaviour::isolated);
    } else if (type == "Metaspace") {
      if (text_of(p, "replacement") != space_mark) unsupported("pre-tokenizer", "Metaspace with another mark");
      std::string const scheme = text_of(p, "prepend_scheme");
      bool const old = scheme.empty() && flag(p, "add_prefix_space", true);
      v.escapes_spaces = v.prefix_unless_space = true;
      v.cuts_at_spaces = flag(p, "split", true);
      v.space_prefix = scheme == "always" || old ? vocabulary::prefix::always
                       : scheme == "first"       ? vocabulary::prefix::first
                                                 : vocabulary::prefix::none;
    } else if (type == "Whitespace") {
      add(R"(\w+|[^\w\s]+)", behaviour::removed);
      v.cuts.back().inverted = true;
    } else if (type == "WhitespaceSplit") {
      add(R"(\s+)", behaviour::removed);
    } else if (type == "Punctuation") {
      add(bert_cuts()[1].where.expression(), read_behaviour(p));
    } else if (type == "BertPreTokenizer") {
      for (auto& one : bert_cuts()) v.cuts.push_back(std::move(one));
    } else {
      unsupported("pre-tokenizer", type);
    }
  }

  void post_processor(json const& p) {
    if (p.is_null()) return;
    std::string const type = text_of(p, "type");
    auto const named = [&](char const* name) {
      json const& pair = part(p, name);
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) wrong("has a post-processor without tokens");
      return id_of(pair[0].get<std::string>());
    };
    if (type == "Sequence") {
      for (json const& one : list(p, "processors")) post_processor(one);
    } else if (type == "TemplateProcessing") {
      bool after = false;
      for (json const& one : list(p, "single")) {
        if (part(one, "Sequence").is_object()) after = true;
        else (after ? v.after : v.before).push_back(id_of(text_of(part(one, "SpecialToken"), "id")));
      }
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      v.before = {named("cls")};
      v.after = {named("sep")};
    } else if (type != "ByteLevel") {
      unsupported("post-processor", type);
    }
    if (!v.before.empty()) v.beginning = v.before.front();
    if (!v.after.empty()) v.end = v.after.back();
  }

  static constexpr std::uint64_t most_tokens = std::uint64_t(1) << 26;
  std::string const& file;
  tokenizer_json_reader reader;
  /// What the vocabulary's views point into.
  struct storage {
    std::string tokens, merges;
    std::vector<std::int32_t> types;
    std::vector<float> scores;
  };
  std::shared_ptr<storage> content = std::make_shared<storage>();
  vocabulary v;
};

}  // namespace detail

/// The vocabulary in the text of a tokenizer.json.
/// @error file_error for what is wrong in it or is not supported   @error argument_error for a pattern that is not
inline vocabulary parse_tokenizer_json(std::string_view text, std::string const& name = "tokenizer.json") {
  return detail::tokenizer_json_builder(text, name).build();
}
inline vocabulary read_tokenizer_json(io::path const& file) {
  io::mapped_file const content(file);
  return parse_tokenizer_json({reinterpret_cast<char const*>(content.bytes().data()), content.size()}, file.string());
}

}  // namespace tenon::text
