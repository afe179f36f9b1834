// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Tokens of many texts, for tests/parity/tokenizer_test.py:
//   parity_tokenize_program MODEL FLAGS <TEXTS >TOKENS
// MODEL is a .gguf file or a tokenizer.json. FLAGS has the letters s (begin and end tokens), p (control tokens are found
// in the text), d (after the tokens of each text the text that they decode to). Every text and every list begins with
// its length as four bytes.
//   parity_tokenize_program train SIZE <TEXT >TOKENIZER.json
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/text/bpe_training.hpp>
#include <tenon/text/gguf_vocabulary.hpp>
#include <tenon/text/tokenizer.hpp>
#include <tenon/text/tokenizer_json.hpp>

namespace {

template <class T>
void put(T const* data, std::size_t n) {
  auto const length = std::uint32_t(n);
  std::fwrite(&length, sizeof length, 1, stdout);
  std::fwrite(data, sizeof(T), n, stdout);
}

int train(int size) {
  tenon::text::bpe_trainer trainer({.vocabulary = size});
  trainer.feed(std::string(std::istreambuf_iterator<char>(std::cin), {}));
  std::fputs(trainer.tokenizer_json().c_str(), stdout);
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) return std::fputs("usage: parity_tokenize_program MODEL FLAGS <TEXTS >TOKENS\n", stderr), 2;
  if (std::string_view(argv[1]) == "train") return train(std::atoi(argv[2]));
  std::string const model = argv[1], flags = argv[2];
  auto const has = [&](char c) { return flags.find(c) != std::string::npos; };
  std::unique_ptr<tenon::io::gguf_file> file;
  if (model.ends_with(".gguf")) file = std::make_unique<tenon::io::gguf_file>(model);
  tenon::text::tokenizer const t(file ? tenon::text::read_vocabulary(*file) : tenon::text::read_tokenizer_json(model));
  std::uint32_t length = 0;
  while (std::fread(&length, sizeof length, 1, stdin) == 1) {
    std::string text(length, '\0');
    if (std::fread(text.data(), 1, length, stdin) != length) return std::fputs("the input is cut off\n", stderr), 1;
    auto const ids = t.encode(text, {.add_special = has('s'), .parse_special = has('p')});
    put(ids.data(), ids.size());
    if (!has('d')) continue;
    std::string const back = t.decode(ids);
    put(back.data(), back.size());
  }
} catch (std::exception const& e) {
  std::fprintf(stderr, "parity_tokenize_program: %s\n", e.what());
  return 1;
}
