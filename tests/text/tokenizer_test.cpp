// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/text/gguf_vocabulary.hpp>
#include <tenon/text/tokenizer.hpp>
#include <tenon/text/tokenizer_json.hpp>
#include <text/samples.hpp>

using namespace tenon::text;

struct gguf_tokenizer {
  std::string bytes;
  std::vector<std::uint64_t> aligned;
  tenon::io::gguf_file file;
  tokenizer t;
  explicit gguf_tokenizer(std::string content)
      : bytes(std::move(content)), aligned(bytes.size() / 8 + 1), file(copied(), "x.gguf"), t(read_vocabulary(file)) {}
  std::span<std::byte const> copied() {
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    return {reinterpret_cast<std::byte const*>(aligned.data()), bytes.size()};
  }
};
static std::string spelled(tokenizer const& t, std::vector<token_id> const& ids) {
  std::string out;
  for (token_id const id : ids) (out += out.empty() ? "" : " ") += t.token(id);
  return out;
}
static std::string spelled(tokenizer const& t, std::string_view s, bool special = false) {
  return spelled(t, t.encode(s, {.add_special = special, .parse_special = special}));
}

TEST_CASE("tokenizer: SentencePiece merges by score, bytes for the rest, users' tokens first") {
  gguf_tokenizer const g(sample_gguf_vocabulary(false));
  tokenizer const& t = g.t;
  CHECK(spelled(t, "hello world") == "hello \u2581world");
  CHECK(spelled(t, "") == "");
  CHECK(spelled(t, "  ") == "\u2581 \u2581");
  CHECK(spelled(t, "z\u00e9") == "<0x7A> \u00e9");
  CHECK(spelled(t, "a\n\n<b>\n") == "a \n\n <b> <0x0A>");
  CHECK(spelled(t, "aaa") == "aa a");
  CHECK(spelled(t, "d> <") == "d>\u2581<");  // the one token that has a blank in it
  CHECK(spelled(t, "hello") == "hello");
  CHECK(spelled(t, "<eos>") == "< e o <0x73> >");
  CHECK(spelled(t, "a<eos>a", true) == "<bos> a <eos> a");
  CHECK(spelled(t, "\xff") == "<0xEF> <0xBF> <0xBD>");
  std::string const back = "hello <b> world\n\n z\u00e9\U0001f600";
  CHECK(t.decode(t.encode(back)) == back);
  CHECK(t.is_special(t.find("<eos>")));
}
TEST_CASE("tokenizer: a blank before the text, at its beginning and after control tokens") {
  gguf_tokenizer const g(sample_gguf_vocabulary(true));
  CHECK(spelled(g.t, "world") == "\u2581world");
  CHECK(spelled(g.t, "a<eos>world<b>a", true) == "<bos> \u2581 a <eos> \u2581world <b> a");
  CHECK(g.t.decode(g.t.encode("world world")) == "world world");
}
TEST_CASE("tokenizer: byte-level merges, added tokens that take blanks, normal form") {
  tokenizer const t(parse_tokenizer_json(sample_tokenizer_json));
  CHECK(t.encode("abc ab") == std::vector<token_id>{9, 5, 12});
  CHECK(t.encode("e\u0301 \u00e9", {.add_special = false}) == std::vector<token_id>{8, 2, 8});
  CHECK(t.encode("a  <mask>b", {.add_special = false}) == std::vector<token_id>{0, 13, 1});
  CHECK(t.encode("<mask>", {.add_special = false, .parse_special = false}) == std::vector<token_id>{0});  // the a
  CHECK(t.decode(std::vector<token_id>{9, 5, 12}) == "abc ab");
  CHECK(t.decode(std::vector<token_id>{9, 12}, true) == "abc<|end|>");
}
TEST_CASE("tokenizer: pieces come from the cache as they came first") {
  gguf_tokenizer const g(sample_gguf_vocabulary(false));
  std::string text, expected;
  for (int i = 0; i < 1000; ++i) {
    std::string const word = i % 3 ? "hello" : std::string(1 + std::size_t(i) % 70, 'a');
    text += (i ? " " : "") + word;
  }
  auto const all = g.t.encode(text);
  std::vector<token_id> parts = {1};
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const end = std::min(text.find(' ', at + 1), text.size());
    auto const ids = g.t.encode(std::string_view(text).substr(at, end - at), {.add_special = false});
    parts.insert(parts.end(), ids.begin(), ids.end());
    at = end;
  }
  CHECK(all == parts);
}
TEST_CASE("detokenizer: no part of a UTF-8 sequence comes out, and nothing is lost") {
  gguf_tokenizer const g(sample_gguf_vocabulary(false));
  auto const byte = [&](int b) { return token_id(5 + b); };
  detokenizer d(g.t);
  CHECK(d.push(byte(0xf0)) == "");
  CHECK(d.push(byte(0x9f)) == "");
  CHECK(d.push(byte(0x98)) == "");
  CHECK(d.push(byte(0x80)) == "\U0001f600");
  CHECK(d.push(byte(0xe2)) == "");
  CHECK(d.push(byte(0x96)) == "");
  CHECK(d.push(g.t.find("a")) ==
        "\ufffd"
        "a");
  CHECK(d.push(byte(0xff)) == "\ufffd");
  CHECK(d.push(byte(0xc3)) == "");
  CHECK(d.push(1) == "");  // <bos>
  CHECK(d.finish() == "\ufffd");
  CHECK(d.finish() == "");
}
TEST_CASE("tokenizer: WordPiece with its words and continuations") {
  tokenizer const t(parse_tokenizer_json(
      R"({"normalizer":{"type":"BertNormalizer"},"pre_tokenizer":{"type":"BertPreTokenizer"},)"
      R"("post_processor":{"type":"BertProcessing","sep":["[SEP]",1],"cls":["[CLS]",0]},"model":{"type":"WordPiece",)"
      R"("unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,)"
      R"("vocab":{"[CLS]":0,"[SEP]":1,"[UNK]":2,"un":3,"##aff":4,"##able":5,"!":6,"a":7}}})"));
  CHECK(spelled(t, "Un\u00e4ffable! Q", true) == "[CLS] un ##aff ##able ! [UNK] [SEP]");
  CHECK(t.decode(t.encode("unaffable a", {.add_special = false})) == "unaffable a");
}
TEST_CASE("tokenizer: what is wrong is refused with a sentence") {
  vocabulary v;
  CHECK_THROWS_AS(tokenizer{v}, tenon::argument_error);
  gguf_tokenizer const g(sample_gguf_vocabulary(false));
  CHECK_THROWS_AS((void)g.t.token(-1), tenon::argument_error);
  CHECK_THROWS_AS((void)g.t.decode(std::vector<token_id>{100000}), tenon::argument_error);
  CHECK_THROWS_AS(gguf_tokenizer(sample_gguf_vocabulary(false, "rwkv")), tenon::file_error);
  for (
      char const* wrong :
      {"", "[]", "{", R"({"model":{"type":"WordLevel"}})",
       R"({"model":{"type":"BPE","vocab":{"a":99999999},"merges":[]}})",
       R"({"normalizer":{"type":"NFKC"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})",
       R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})",
       R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}]},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})"}) {
    CAPTURE(wrong);
    try {
      (void)parse_tokenizer_json(wrong);
      FAIL("accepted");
    } catch (tenon::error const& e) {
      CHECK(is_one_sentence(e.what()));
    }
  }
}
