// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a tokenizer is made of: its tokens and its rules, as a loader fills them in.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/io/gguf_header.hpp>
#include <tenon/text/normalizer.hpp>
#include <tenon/text/pattern.hpp>

namespace tenon::text {

using token_id = std::int32_t;
inline constexpr token_id no_token = -1;

/// What a token is for, numbered as in GGUF files.
enum class token_type : std::int32_t { normal = 1, unknown, control, user_defined, unused, byte };

/// U+2581, which stands for a blank.
inline constexpr std::string_view space_mark = "\xe2\x96\x81";

/// How pieces of text become tokens.
enum class algorithm {
  merges,     ///< byte pair encoding: neighbours are joined in the order of a list
  scores,     ///< byte pair encoding as SentencePiece has it: joined when the whole is a token, best score first
  unigram,    ///< the segmentation with the greatest sum of scores
  word_piece  ///< the longest token that fits, again and again
};

/// One cut of the text into pieces that tokens do not cross.
struct cut {
  /// What becomes of a match: a piece of its own, nothing, or a part of the piece before or after it.
  enum class behaviour { isolated, removed, with_previous, with_next };
  pattern where;
  behaviour matches = behaviour::isolated;
  bool inverted = false;  ///< what lies between the matches is meant
};

/// How a token that is looked for in the text itself takes the blanks beside it.
struct added_token {
  token_id id = no_token;
  bool strips_left = false, strips_right = false;
  bool normalized = false;  ///< looked for in the normalized text
};

/// Strings that lie in memory in their order, each `gap` bytes behind the one before; a third of the room that views need.
class string_list {
 public:
  string_list() = default;
  /// @param strings  a range of string_views with a size()
  template <class Strings>
  string_list(Strings const& strings, std::uint32_t gap_bytes) : gap(gap_bytes) {
    begins.reserve(strings.size() + 1);
    std::size_t end = 0;
    for (std::string_view const s : strings) {
      if (!base) base = s.data();
      std::size_t const begin = std::size_t(s.data() - base);
      end = begin + s.size() + gap;
      if (end > std::numeric_limits<std::uint32_t>::max())
        throw argument_error("tenon::text: tokens or merges take more than 4 GiB. Fix: get the model's files again.");
      begins.push_back(std::uint32_t(begin));
    }
    begins.push_back(std::uint32_t(end));
  }
  std::size_t size() const { return begins.empty() ? 0 : begins.size() - 1; }
  std::string_view operator[](std::size_t i) const { return {base + begins[i], begins[i + 1] - begins[i] - gap}; }

 private:
  char const* base = nullptr;
  std::vector<std::uint32_t> begins;
  std::uint32_t gap = 0;
};

/// The tokens and rules of a model's tokenizer. The views point into `storage`, or into what lives as long.
struct vocabulary {
  algorithm how = algorithm::merges;
  string_list tokens;
  io::packed_values<std::int32_t> types{nullptr, 0};  ///< a token_type for each token
  io::packed_values<float> scores{nullptr, 0};        ///< of `scores` and `unigram`: one for each token
  string_list merges;              ///< "left right"; none: joined when the whole is a token, lowest id first
  std::vector<added_token> added;  ///< tokens of type control and user_defined with a wish of their own
  std::vector<normalization> normalizations;
  std::vector<cut> cuts;

  bool byte_level = false;           ///< tokens are spelled in GPT-2's alphabet, where every byte is a letter
  bool byte_fallback = false;        ///< what is no token becomes the tokens of its bytes
  bool escapes_spaces = false;       ///< a blank is U+2581
  bool cuts_at_spaces = false;       ///< with escapes_spaces: no token has one behind its first letter
  bool whole_words_first = false;    ///< a piece that is a token is taken as it is, whatever the merges say
  bool adds_in_fp32 = false;         ///< scores of `unigram`, as SentencePiece does; else in fp64
  bool fuses_unknown = true;         ///< neighbouring unknown letters are one token
  bool prefix_unless_space = false;  ///< no blank is put before a text that begins with one
  /// Where a blank is put before the text: nowhere, at its beginning, there and after control tokens, or after every
  /// added token.
  enum class prefix { none, first, sections, always } space_prefix = prefix::none;

  std::string word_prefix, continuation_prefix;  ///< of `word_piece`, e.g. "" and "##"
  token_id unknown = no_token, beginning = no_token, end = no_token, padding = no_token;
  std::vector<token_id> before, after;  ///< what `encode` puts around a text

  std::shared_ptr<void const> storage = {};
};

}  // namespace tenon::text
