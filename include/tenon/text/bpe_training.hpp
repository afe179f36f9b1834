// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Learning a byte-level vocabulary from text.   @source Sennrich 2016 arXiv:1508.07909
/// @test tests/text/bpe_training_test.cpp, tests/parity/tokenizer_test.py
#include <algorithm>
#include <cstdint>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/json_text.hpp>
#include <tenon/text/byte_alphabet.hpp>
#include <tenon/text/cut_patterns.hpp>
#include <tenon/text/pattern.hpp>
#include <tenon/text/vocabulary.hpp>

namespace tenon::text {

/// What a trained vocabulary is made of.
struct training_options {
  int vocabulary = 8192;                          ///< tokens in all: the special ones, the 256 bytes, and merges
  std::string_view cut_pattern = llama3_pattern;  ///< how text is cut into words
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  std::int64_t least_count = 2;  ///< pairs that are rarer are not joined
};

/// Learns a byte-level BPE vocabulary: the pair that is found most often becomes a token, again and again; of equally
/// frequent ones the pair with the lower ids. Feed it text, in any number of parts that words do not cross, then ask.
/// @error argument_error when the vocabulary has no room for the bytes   @test tests/text/bpe_training_test.cpp
class bpe_trainer {
 public:
  explicit bpe_trainer(training_options o) : options(std::move(o)), cuts(options.cut_pattern) {
    std::size_t const least = options.special_tokens.size() + 256;
    if (options.vocabulary < int(least))
      throw argument_error("tenon::text::bpe_trainer: a vocabulary of " + std::to_string(options.vocabulary) +
                           " has no room for its " + std::to_string(least) +
                           " bytes and special tokens. Fix: at least that many.");
  }
  void feed(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
      auto const [begin, end] = cuts.search(text, at);
      if (begin > at) ++words[std::string(text.substr(at, begin - at))];
      if (end > begin) ++words[std::string(text.substr(begin, end - begin))];
      at = end;
    }
  }
  /// The vocabulary as a tokenizer.json, for tenon and for Hugging Face's tokenizers.
  std::string tokenizer_json() const {
    std::vector<std::string> tokens = options.special_tokens;
    std::vector<std::pair<token_id, token_id>> const merges = learn(tokens);
    std::string out = R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)";
    for (std::size_t i = 0; i < options.special_tokens.size(); ++i) {
      (out += i ? "," : "") += "{\"id\":" + std::to_string(i) + ",\"content\":";
      append_json_string(out, tokens[i]);
      out += R"(,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})";
    }
    out +=
        R"(],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)";
    append_json_string(out, options.cut_pattern);
    out +=
        R"(},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,)"
        R"("use_regex":false}]},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,)"
        R"("trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,)"
        R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,)"
        R"("ignore_merges":false,"vocab":{)";
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i) out += ',';
      append_json_string(out, tokens[i]);
      (out += ':') += std::to_string(i);
    }
    out += "},\"merges\":[";
    for (std::size_t i = 0; i < merges.size(); ++i) {
      if (i) out += ',';
      append_json_string(out, tokens[std::size_t(merges[i].first)] + " " + tokens[std::size_t(merges[i].second)]);
    }
    return out += "]}}\n";
  }

 private:
  struct word {
    std::vector<token_id> parts;
    std::int64_t count;
  };
  struct candidate {
    std::int64_t count;
    std::uint64_t pair;
    bool operator<(candidate const& o) const { return std::tie(count, o.pair) < std::tie(o.count, pair); }
  };
  static std::uint64_t key_of(token_id a, token_id b) {
    return std::uint64_t(std::uint32_t(a)) << 32 | std::uint32_t(b);
  }

  std::vector<std::pair<token_id, token_id>> learn(std::vector<std::string>& tokens) const {
    auto const& alphabet = detail::byte_alphabet::get();
    std::vector<char32_t> letters(alphabet.letters.begin(), alphabet.letters.end());
    std::sort(letters.begin(), letters.end());
    std::vector<token_id> id_of(256);
    for (char32_t const l : letters) {
      id_of[std::size_t(alphabet.bytes[l])] = token_id(tokens.size());
      append_utf8(tokens.emplace_back(), l);
    }
    std::vector<word> all;
    for (auto const& [text, count] : words) {
      word& w = all.emplace_back(word{{}, count});
      for (char const c : text) w.parts.push_back(id_of[static_cast<std::uint8_t>(c)]);
    }
    // How often each pair is there, and in which words it may be.
    struct place {
      std::int64_t count = 0;
      std::vector<std::uint32_t> words;
    };
    std::unordered_map<std::uint64_t, place> pairs;
    for (std::uint32_t i = 0; i < all.size(); ++i)
      for (std::size_t k = 0; k + 1 < all[i].parts.size(); ++k) {
        place& p = pairs[key_of(all[i].parts[k], all[i].parts[k + 1])];
        p.count += all[i].count;
        if (p.words.empty() || p.words.back() != i) p.words.push_back(i);
      }
    std::priority_queue<candidate> open;
    for (auto const& [key, p] : pairs) open.push({p.count, key});
    std::unordered_map<std::string, token_id> made;
    for (std::size_t i = 0; i < tokens.size(); ++i) made.emplace(tokens[i], token_id(i));
    std::vector<std::pair<token_id, token_id>> merges;
    while (!open.empty() && tokens.size() < std::size_t(options.vocabulary)) {
      candidate const best = open.top();
      open.pop();
      place& p = pairs[best.pair];
      if (p.count != best.count) {  // it has lost some to another merge since
        if (p.count > 0) open.push({p.count, best.pair});
        continue;
      }
      if (best.count < options.least_count || best.count < 1) break;
      auto const left = token_id(best.pair >> 32), right = token_id(best.pair & 0xffffffff);
      std::string const text = tokens[std::size_t(left)] + tokens[std::size_t(right)];
      auto const [known, fresh] = made.emplace(text, token_id(tokens.size()));
      if (fresh) tokens.push_back(text);
      merges.emplace_back(left, right);
      std::vector<std::uint32_t> const where = std::exchange(p.words, {});
      p.count = 0;
      join(all, where, left, right, known->second, pairs, open);
    }
    return merges;
  }
  /// Joins a pair in these words, and counts what that changes.
  template <class Pairs>
  static void join(std::vector<word>& all, std::vector<std::uint32_t> const& where, token_id left, token_id right,
                   token_id whole, Pairs& pairs, std::priority_queue<candidate>& open) {
    std::vector<std::uint64_t> grown;
    for (std::uint32_t const i : where) {
      auto& parts = all[i].parts;
      std::int64_t const count = all[i].count;
      auto const change = [&](token_id a, token_id b, bool more) {
        auto& p = pairs[key_of(a, b)];
        p.count += more ? count : -count;
        if (!more) return;
        if (p.words.empty() || p.words.back() != i) p.words.push_back(i);
        grown.push_back(key_of(a, b));
      };
      std::size_t length = 0;
      for (std::size_t k = 0; k < parts.size(); ++k) {
        if (k + 1 == parts.size() || parts[k] != left || parts[k + 1] != right) {
          parts[length++] = parts[k];
          continue;
        }
        if (length > 0) {
          change(parts[length - 1], left, false);
          change(parts[length - 1], whole, true);
        }
        if (k + 2 < parts.size()) {
          change(right, parts[k + 2], false);
          change(whole, parts[k + 2], true);
        }
        parts[length++] = whole;
        ++k;
      }
      parts.resize(length);
    }
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (std::uint64_t const key : grown)
      if (std::int64_t const count = pairs[key].count; count > 0) open.push({count, key});
  }

  training_options options;
  pattern cuts;
  std::unordered_map<std::string, std::int64_t> words;
};

}  // namespace tenon::text
