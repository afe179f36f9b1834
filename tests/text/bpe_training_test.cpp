// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <tenon/text/bpe_training.hpp>
#include <tenon/text/tokenizer.hpp>
#include <tenon/text/tokenizer_json.hpp>

using namespace tenon::text;

TEST_CASE("bpe_training: the most frequent pairs first, and any text comes back") {
  bpe_trainer trainer({.vocabulary = 257 + 4, .special_tokens = {"<|end|>"}});
  trainer.feed("low low low lower lowest newer newer");
  tokenizer const t(parse_tokenizer_json(trainer.tokenizer_json()));
  CHECK(t.size() == 261);
  CHECK(t.token(257) == "lo");
  CHECK(t.token(258) == "low");
  CHECK(t.token(259) == "\u0120low");
  CHECK(t.token(260) == "er");
  std::string const text = "lowly \u00e9\U0001f600 \xff<|end|>";
  auto const ids = t.encode(text, {.parse_special = false});
  std::string bytes;
  for (token_id const id : ids) t.append_bytes(bytes, id);
  CHECK(bytes == text);
  CHECK(t.encode("<|end|>") == std::vector<token_id>{0});
}
TEST_CASE("bpe_training: stops where nothing is left to join, and refuses what has no room") {
  bpe_trainer trainer({.vocabulary = 1000});
  trainer.feed("ab ab");
  CHECK(tokenizer(parse_tokenizer_json(trainer.tokenizer_json())).size() == 258);  // " ab" is there once
  CHECK_THROWS_AS(bpe_trainer({.vocabulary = 200}), tenon::argument_error);
}
