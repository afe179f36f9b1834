// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Text to tokens and back.
#include <algorithm>
#include <array>
#include <bit>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/text/added_tokens.hpp>
#include <tenon/text/byte_alphabet.hpp>
#include <tenon/text/hash_index.hpp>
#include <tenon/text/normalizer.hpp>
#include <tenon/text/segment.hpp>
#include <tenon/text/utf8.hpp>
#include <tenon/text/vocabulary.hpp>

namespace tenon::text {

/// What `encode` does beside dividing the text.
struct encode_options {
  bool add_special = true;    ///< put the model's begin and end tokens around the text
  bool parse_special = true;  ///< take control tokens that are spelled out in the text as those tokens
};

/// Divides text into the tokens of a model, and puts them together again. Immutable: threads may share it.
///
/// Any bytes may be given. Where they are no UTF-8, byte-level vocabularies keep them, and the others see U+FFFD.
/// @test tests/text/tokenizer_test.cpp, tests/parity/tokenizer_test.py
class tokenizer {
 public:
  /// @error argument_error when the vocabulary's parts do not fit each other
  explicit tokenizer(vocabulary v) : rules(std::move(v)) {
    check();
    index = detail::hash_index(size(), [this](std::size_t i) {
      std::string_view const t = rules.tokens[i];
      if (rules.escapes_spaces) find_joins(t);  // while the string is at hand: another pass would cost as much
      return detail::hash_bytes(t);
    });
    if (rules.how == algorithm::merges) build_merge_index();
    if (rules.byte_fallback) find_byte_tokens();
    if (rules.how == algorithm::unigram) measure_tokens();
    find_added_tokens();
  }

  vocabulary const& parts() const { return rules; }
  std::size_t size() const { return rules.tokens.size(); }
  /// A token as the vocabulary spells it.
  std::string_view token(token_id id) const { return rules.tokens[checked(id)]; }
  token_type type(token_id id) const { return type_at(checked(id)); }
  bool is_special(token_id id) const { return type(id) == token_type::control || type(id) == token_type::unknown; }
  /// The token of this spelling, of any type; no_token when there is none.
  token_id find(std::string_view spelling) const {
    return index.find(detail::hash_bytes(spelling), [&](std::uint32_t i) { return rules.tokens[i] == spelling; });
  }

  std::vector<token_id> encode(std::string_view text, encode_options options = {}) const {
    std::vector<token_id> out;
    out.reserve(text.size() / 4 + 8);
    if (options.add_special) out = rules.before;
    work w(out, text.size(), options.parse_special);
    // SentencePiece sees no difference between a blank and its mark, not even in the tokens that users define.
    if (rules.how == algorithm::scores && text.find(space_mark) != std::string_view::npos)
      text = detail::normalized(mark_to_blank, text, w.owned.emplace_back());
    split_added(w, in_text, false, text, no_token, [&](std::string_view s, token_id last) { encode_raw(w, s, last); });
    if (options.add_special) out.insert(out.end(), rules.after.begin(), rules.after.end());
    return out;
  }

  /// Appends the bytes that a token stands for. One token may hold a part of a UTF-8 sequence.
  /// @param first  nothing of the text has come yet: a blank that was put before it is left out, as are marks
  void append_bytes(std::string& out, token_id id, bool first = false) const {
    std::string_view const s = token(id);
    if (type(id) == token_type::control || type(id) == token_type::user_defined) {
      out += s;
    } else if (rules.byte_level) {
      detail::byte_alphabet::get().append_bytes(out, s);
    } else if (rules.byte_fallback && s.size() == 6 && byte_of(s) >= 0) {
      out += char(byte_of(s));
    } else if (rules.how == algorithm::word_piece) {
      bool const goes_on = !rules.continuation_prefix.empty() ? s.starts_with(rules.continuation_prefix)
                                                              : !s.starts_with(rules.word_prefix);
      if (!first && !goes_on) out += ' ';
      out += s.substr(goes_on                            ? rules.continuation_prefix.size()
                      : s.starts_with(rules.word_prefix) ? rules.word_prefix.size()
                                                         : 0);
    } else if (rules.escapes_spaces) {
      std::size_t i = 0;
      if (first && rules.space_prefix != vocabulary::prefix::none && s.starts_with(space_mark)) i = space_mark.size();
      for (std::size_t mark; (mark = s.find(space_mark, i)) != std::string_view::npos; i = mark + space_mark.size())
        (out += s.substr(i, mark - i)) += ' ';
      out += s.substr(i);
    } else {
      out += s;
    }
  }
  /// The text of tokens; where their bytes are no UTF-8, U+FFFD.
  /// @param special  control tokens are spelled out; else they are left out
  std::string decode(std::span<token_id const> ids, bool special = false) const;

 private:
  static constexpr std::size_t most_tokens = std::size_t(1) << 26;
  static constexpr std::size_t most_word_letters = 100;  // longer words are unknown to WordPiece

  /// What one call of encode needs.
  struct work {
    std::vector<token_id>& out;
    bool parse_special;
    /// A piece that came before, and where its tokens are in `out`: text repeats itself.
    struct known {
      char const* text = nullptr;
      std::size_t bytes = 0, at = 0, count = 0;
    };
    std::vector<known> cache;
    std::deque<std::string> owned;  ///< texts that pieces lie in, where it is not the caller's
    std::string mapped;             ///< the piece as the vocabulary spells it
    std::vector<std::uint32_t> starts;
    work(std::vector<token_id>& o, std::size_t bytes, bool parse)
        : out(o), parse_special(parse), cache(std::bit_ceil(std::clamp<std::size_t>(bytes / 8, 16, 1 << 15))) {}
  };

  static std::uint64_t pair_hash(std::string_view left, std::string_view right) {
    return detail::hash_bytes(left) * 3 + detail::hash_bytes(right);
  }
  std::size_t checked(token_id id) const {
    if (id < 0 || std::size_t(id) >= size())
      throw argument_error("tenon::text::tokenizer: token " + std::to_string(id) + " is not one of the " +
                           std::to_string(size()) + " that there are. Fix: use ids of this vocabulary.");
    return std::size_t(id);
  }
  [[noreturn]] static void fail(std::string const& what) {
    throw argument_error("tenon::text::tokenizer: the vocabulary " + what + ". Fix: get the model's files again.");
  }

  void check() {
    std::size_t const n = rules.tokens.size();
    if (n == 0 || n > most_tokens) fail("has " + std::to_string(n) + " tokens");
    if (rules.types.size() != 0 && rules.types.size() != n)
      fail("has " + std::to_string(n) + " tokens but " + std::to_string(rules.types.size()) + " types");
    bool const scored = rules.how == algorithm::scores || rules.how == algorithm::unigram;
    if (scored && rules.scores.size() != n)
      fail("has " + std::to_string(n) + " tokens but " + std::to_string(rules.scores.size()) + " scores");
    std::vector<token_id> named = rules.before;
    named.insert(named.end(), rules.after.begin(), rules.after.end());
    for (auto const& a : rules.added) named.push_back(a.id);
    for (token_id const id : {rules.unknown, rules.beginning, rules.end, rules.padding})
      if (id != no_token) named.push_back(id);
    for (token_id const id : named)
      if (id < 0 || std::size_t(id) >= n) fail("names token " + std::to_string(id) + " of " + std::to_string(n));
  }
  void build_merge_index() {
    merge_index = detail::hash_index(rules.merges.size(), [this](std::size_t i) {
      std::string_view const m = rules.merges[i];
      std::size_t const blank = m.find(' ', 1);
      if (blank == std::string_view::npos) fail("has a merge that is no pair");
      return pair_hash(m.substr(0, blank), m.substr(blank + 1));
    });
  }
  /// The byte that "<0x0A>" stands for; -1 when it is not spelled so.
  static int byte_of(std::string_view s) {
    if (s.size() != 6 || !s.starts_with("<0x") || s[5] != '>') return -1;
    int value = 0;
    for (char const c : s.substr(3, 2)) {
      int const digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) return -1;
      value = value * 16 + digit;
    }
    return value;
  }
  void find_byte_tokens() {
    constexpr char const* digits = "0123456789ABCDEF";
    for (unsigned b = 0; b < 256; ++b)
      byte_tokens[b] = find(std::string{'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'});
  }
  void find_added_tokens() {
    std::sort(rules.added.begin(), rules.added.end(), [](auto const& a, auto const& b) { return a.id < b.id; });
    for (std::size_t i = 0; i < rules.tokens.size(); ++i) {
      if (!is_added(type_at(i))) continue;
      added_token const* const wish = wish_of(token_id(i));
      (wish && wish->normalized ? in_normalized : in_text).add(rules.tokens[i]);
    }
  }
  /// Which bytes some token has before a blank that is not at its beginning: merges may cross only there.
  void find_joins(std::string_view t) {
    for (std::size_t i = 1; (i = t.find(space_mark, i)) != std::string_view::npos; i += space_mark.size())
      if (!t.substr(0, i).ends_with(space_mark)) joins[detail::byte_at(t, i - 1)] = true;
  }
  void measure_tokens() {
    float least = 0;
    for (std::size_t i = 0; i < rules.tokens.size(); ++i) {
      longest = std::max(longest, rules.tokens[i].size());
      if (is_usual(type_at(i))) least = std::min(least, rules.scores[i]);
    }
    unknown_score = double(least) - 10;  // as SentencePiece has it
  }

  token_type type_at(std::size_t i) const {
    return rules.types.size() ? token_type(rules.types[i]) : token_type::normal;
  }
  static bool is_added(token_type t) { return t == token_type::control || t == token_type::user_defined; }
  /// Tokens that pieces of text may become.
  static bool is_usual(token_type t) { return t == token_type::normal || t == token_type::user_defined; }
  token_id find_usual(std::string_view s) const {
    token_id const id = find(s);
    return id != no_token && is_usual(type_at(std::size_t(id))) ? id : no_token;
  }
  added_token const* wish_of(token_id id) const {
    auto const found = std::lower_bound(rules.added.begin(), rules.added.end(), id,
                                        [](added_token const& a, token_id b) { return a.id < b; });
    return found != rules.added.end() && found->id == id ? &*found : nullptr;
  }

  /// Calls f(text, last) for what lies between added tokens, and puts those out; `last` is the one before, if any.
  template <class F>
  void split_added(work& w, detail::added_tokens const& added, bool normalized, std::string_view text, token_id last,
                   F&& f) const {
    auto const id_of = [&](std::string_view s) {
      token_id const id = find(s);
      if (id == no_token) return no_token;
      token_type const t = type_at(std::size_t(id));
      if (t != token_type::user_defined && !(t == token_type::control && w.parse_special)) return no_token;
      added_token const* const wish = wish_of(id);
      return (wish && wish->normalized) == normalized ? id : no_token;
    };
    for (std::size_t at = 0; at < text.size();) {
      auto found = added.find(text, at, id_of);
      std::size_t next = found.end;
      if (added_token const* const wish = found.id != no_token ? wish_of(found.id) : nullptr) {
        auto const blank_at = [&](std::size_t i) { return is_space(decode_utf8(text, i).value); };
        while (wish->strips_left && found.begin > at && blank_at(previous_utf8(text, found.begin)))
          found.begin = previous_utf8(text, found.begin);
        while (wish->strips_right && next < text.size() && blank_at(next)) next += decode_utf8(text, next).bytes;
      }
      if (found.begin > at) f(text.substr(at, found.begin - at), last);
      last = found.id;
      if (last != no_token) w.out.push_back(last);
      at = next;
    }
  }
  void encode_raw(work& w, std::string_view raw, token_id before) const {
    std::string_view const text = normalize(rules.normalizations, raw, w.owned);
    split_added(w, in_normalized, true, text, before, [&](std::string_view s, token_id last) {
      using prefix = vocabulary::prefix;
      prefix const p = rules.space_prefix;
      bool const wanted = p == prefix::always || (p != prefix::none && last == no_token) ||
                          (p == prefix::sections && type_at(std::size_t(last)) == token_type::control);
      if (wanted &&
          !(rules.prefix_unless_space && (s.starts_with(' ') || (rules.escapes_spaces && s.starts_with(space_mark)))))
        s = w.owned.emplace_back(" ").append(s);
      encode_cuts(w, s, 0);
    });
  }
  void encode_cuts(work& w, std::string_view s, std::size_t step) const {
    if (s.empty()) return;
    if (step == rules.cuts.size()) return rules.escapes_spaces ? encode_words(w, s) : encode_piece(w, s);
    cut const& c = rules.cuts[step];
    using behaviour = cut::behaviour;
    std::size_t held = 0;  // where the piece begins that is not out yet
    auto const put = [&](std::size_t end) {
      encode_cuts(w, s.substr(held, end - held), step + 1);
      held = end;
    };
    for (std::size_t at = 0; at < s.size();) {
      auto const [begin, end] = c.where.search(s, at);
      // What is meant lies in [from, to): the match, or what is before it.
      std::size_t const from = c.inverted ? at : begin, to = c.inverted ? begin : end;
      at = end;
      if (from == to || c.matches != behaviour::with_previous) put(from);
      if (from == to) continue;
      if (c.matches == behaviour::removed) held = to;
      else if (c.matches != behaviour::with_next) put(to);
    }
    put(s.size());
  }
  /// Cuts before blanks where no token reaches across.
  void encode_words(work& w, std::string_view s) const {
    auto const blank = [&](std::size_t i) -> std::size_t {
      return s[i] == ' ' ? 1 : s.compare(i, space_mark.size(), space_mark) == 0 ? space_mark.size() : 0;
    };
    std::size_t held = 0;
    bool after_blank = true;
    for (std::size_t i = 0; i < s.size();) {
      std::size_t const bytes = blank(i);
      if (bytes && i > 0 && (rules.cuts_at_spaces || (!after_blank && !joins[detail::byte_at(s, i - 1)]))) {
        encode_piece(w, s.substr(held, i - held));
        held = i;
      }
      after_blank = bytes > 0;
      i += std::max<std::size_t>(bytes, 1);
    }
    encode_piece(w, s.substr(held));
  }
  void encode_piece(work& w, std::string_view s) const {
    constexpr std::size_t most_cached = 64;
    if (s.size() > most_cached) return divide(w, s);
    auto& known = w.cache[detail::hash_bytes(s) & (w.cache.size() - 1)];
    if (known.bytes == s.size() && std::memcmp(known.text, s.data(), s.size()) == 0) {
      w.out.resize(w.out.size() + known.count);
      std::copy_n(w.out.begin() + std::ptrdiff_t(known.at), known.count, w.out.end() - std::ptrdiff_t(known.count));
      return;
    }
    std::size_t const at = w.out.size();
    divide(w, s);
    known = {s.data(), s.size(), at, w.out.size() - at};
  }

  /// Spells a piece as the vocabulary does, letter by letter.
  void spell(work& w, std::string_view s) const {
    w.mapped.clear();
    w.starts.clear();
    auto const letter = [&] { w.starts.push_back(std::uint32_t(w.mapped.size())); };
    if (rules.byte_level) {
      auto const& alphabet = detail::byte_alphabet::get();
      for (std::size_t i = 0; i < s.size(); ++i)
        letter(), append_utf8(w.mapped, alphabet.letters[detail::byte_at(s, i)]);
    } else {
      for_each_code_point(s, [&](code_point c) {
        letter();
        if (c.value == ' ' && rules.escapes_spaces) w.mapped += space_mark;
        else append_utf8(w.mapped, c.value);
      });
    }
    letter();
  }
  void divide(work& w, std::string_view s) const {
    if (s.size() > most_piece_bytes)
      throw argument_error("tenon::text::tokenizer: a text of " + std::to_string(s.size()) +
                           " bytes without a place to cut it is too long. Fix: give it in parts.");
    spell(w, s);
    std::string_view const text = w.mapped;
    auto const part = [&](std::size_t begin, std::size_t end) { return text.substr(begin, end - begin); };
    if (rules.how == algorithm::word_piece) return divide_word(w);
    if (token_id const whole = rules.whole_words_first ? find_usual(text) : no_token; whole != no_token)
      return w.out.push_back(whole);
    auto const score = [&](std::size_t begin, std::size_t end, float& value) {
      token_id const id = find_usual(part(begin, end));
      if (id == no_token) return false;
      value = rules.scores[std::size_t(id)];
      return true;
    };
    if (rules.how == algorithm::unigram && rules.adds_in_fp32)
      detail::best_segmentation(w.starts, longest, float(unknown_score), score);
    else if (rules.how == algorithm::unigram) detail::best_segmentation(w.starts, longest, unknown_score, score);
    else if (rules.merges.size() == 0)
      detail::merge_pairs(w.starts, [&](std::size_t begin, std::size_t, std::size_t end) {
        token_id const id = find_usual(part(begin, end));
        return id == no_token                   ? detail::no_rank
               : rules.how == algorithm::scores ? descending(rules.scores[std::size_t(id)])
                                                : std::uint32_t(id);
      });
    else
      detail::merge_pairs(w.starts, [&](std::size_t begin, std::size_t middle, std::size_t end) {
        std::string_view const left = part(begin, middle), right = part(middle, end);
        return std::uint32_t(merge_index.find(pair_hash(left, right), [&](std::uint32_t i) {
          std::string_view const m = rules.merges[i];
          return m.size() == left.size() + right.size() + 1 && m[left.size()] == ' ' && m.starts_with(left) &&
                 m.ends_with(right);
        }));
      });
    bool fused = false;
    for (std::size_t i = 0; i + 1 < w.starts.size(); ++i) {
      std::string_view const t = part(w.starts[i], w.starts[i + 1]);
      token_id const id = find_usual(t);
      if (id != no_token) w.out.push_back(id);
      else if (!put_bytes(w, t) && rules.unknown != no_token && !(fused && rules.fuses_unknown))
        w.out.push_back(rules.unknown);
      fused = id == no_token;
    }
  }
  bool put_bytes(work& w, std::string_view s) const {
    if (!rules.byte_fallback) return false;
    for (char const c : s)
      if (byte_tokens[static_cast<std::uint8_t>(c)] == no_token) return false;
    for (char const c : s) w.out.push_back(byte_tokens[static_cast<std::uint8_t>(c)]);
    return true;
  }
  void divide_word(work& w) const {
    std::size_t const before = w.out.size(), letters = w.starts.size() - 1;
    std::string_view const text = w.mapped;
    std::string key;
    for (std::size_t i = 0, end; i < letters; i = end) {
      token_id id = no_token;
      key = i == 0 ? rules.word_prefix : rules.continuation_prefix;
      std::size_t const prefix = key.size();
      key += text.substr(w.starts[i]);
      for (end = letters <= most_word_letters ? letters : 0; end > i; --end) {
        id = find_usual(std::string_view(key).substr(0, prefix + w.starts[end] - w.starts[i]));
        if (id != no_token) break;
      }
      if (id == no_token) {
        w.out.resize(before);
        if (rules.unknown != no_token) w.out.push_back(rules.unknown);
        return;
      }
      w.out.push_back(id);
    }
  }
  /// Numbers in the opposite order of the scores.
  static std::uint32_t descending(float score) {
    auto const bits = std::bit_cast<std::uint32_t>(score + 0.0f);  // -0 is 0
    return std::min(bits >> 31 ? bits : ~bits & 0x7fffffff, detail::no_rank - 1);
  }

  static constexpr std::size_t most_piece_bytes = std::size_t(1) << 28;
  inline static normalization const mark_to_blank{normalization::step::replace, pattern(space_mark), " "};
  vocabulary rules;
  detail::hash_index index, merge_index;
  detail::added_tokens in_text, in_normalized;
  std::array<token_id, 256> byte_tokens{};
  std::bitset<256> joins;
  std::size_t longest = 0;
  double unknown_score = 0;
};

/// Puts tokens together as they come, and never gives a part of a UTF-8 sequence: what may still become one is held
/// back. What cannot is U+FFFD, once for each part that stops short.
/// @test tests/text/tokenizer_test.cpp
class detokenizer {
 public:
  /// @param special  control tokens are spelled out; else they are left out
  explicit detokenizer(tokenizer const& t, bool special = false) : tokens(&t), shows_special(special) {}
  /// The text that this token completes; valid until the next call.
  std::string_view push(token_id id) {
    ready.clear();
    if (!shows_special && tokens->is_special(id)) return ready;
    tokens->append_bytes(held, id, std::exchange(first, false));
    return take(false);
  }
  /// The end of the text: what is still held back.
  std::string_view finish() {
    ready.clear();
    first = true;
    return take(true);
  }

 private:
  std::string_view take(bool all) {
    std::size_t i = 0;
    while (i < held.size()) {
      std::uint32_t const right = detail::right_bytes(held, i),
                          wanted = detail::sequence_bytes(detail::byte_at(held, i));
      if (!all && right < wanted && i + right == held.size()) break;
      if (right == wanted && wanted > 0) ready.append(held, i, wanted);
      else append_utf8(ready, replacement_character);
      i += std::max<std::uint32_t>(right, 1);
    }
    held.erase(0, i);
    return ready;
  }

  tokenizer const* tokens;
  bool shows_special, first = true;
  std::string held, ready;
};

inline std::string tokenizer::decode(std::span<token_id const> ids, bool special) const {
  std::string out;
  detokenizer d(*this, special);
  for (token_id const id : ids) out += d.push(id);
  return out += d.finish();
}

}  // namespace tenon::text
