// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: CLI11::CLI11
// Text to tokens and back, with the tokenizer of a model; and learning one.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include <tenon/core/json_text.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/text.hpp>

namespace {

namespace text = tenon::text;

struct options {
  std::string model, text, chat, decode, train, out = "tokenizer.json";
  bool ids = false, json = false, no_special = false;
  int vocabulary = 8192;
};

std::string from_stdin() { return {std::istreambuf_iterator<char>(std::cin), {}}; }

/// "1 2 3" or "1,2,3".
std::vector<text::token_id> read_ids(std::string list) {
  for (char& c : list)
    if (c == ',' || c == '[' || c == ']') c = ' ';
  std::istringstream in(list);
  std::vector<text::token_id> ids;
  std::string word;
  while (in >> word) ids.push_back(text::token_id(std::stol(word)));
  return ids;
}

void train(options const& o) {
  tenon::io::mapped_file const content(o.train);
  text::bpe_trainer trainer({.vocabulary = o.vocabulary});
  trainer.feed({reinterpret_cast<char const*>(content.bytes().data()), content.size()});
  std::string const json = trainer.tokenizer_json();
  tenon::io::write_file_atomically(o.out, json);
  text::tokenizer const t(text::parse_tokenizer_json(json));
  std::printf("%s: %zu tokens\n", o.out.c_str(), t.size());
}

void print(options const& o, text::tokenizer const& t, std::vector<text::token_id> const& ids) {
  std::string out;
  if (o.json) out += "{\"token_ids\": [";
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::string piece;
    t.append_bytes(piece, ids[i]);
    if (o.json || o.ids) (out += i ? o.json ? ", " : " " : "") += std::to_string(ids[i]);
    else (out += std::to_string(ids[i]) + "\t") += piece == "\n" ? "\\n\n" : piece + "\n";
  }
  if (o.json) {
    out += "], \"text\": ";
    tenon::append_json_string(out, t.decode(ids, true));
    out += ", \"count\": " + std::to_string(ids.size()) + "}";
  }
  if (out.empty() || out.back() != '\n') out += '\n';
  std::fwrite(out.data(), 1, out.size(), stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  options o;
  CLI::App app("Text to tokens and back, with the tokenizer of a model; and learning one.");
  app.add_option("--model", o.model, "a .gguf file or a tokenizer.json");
  app.add_option("--text", o.text, "the text; without it, what comes on standard input");
  app.add_option("--decode", o.decode, "ids to put together, e.g. 1,2,3");
  app.add_option(
      "--chat", o.chat,
      "take the text as one user's message: the name of a built-in format (chatml, qwen, llama2, llama3, gemma, "
      "mistral), or 'model' for the file's own template");
  app.add_option("--train", o.train, "learn a vocabulary from this text, and write it to --out");
  app.add_option("--vocabulary", o.vocabulary, "how many tokens to learn");
  app.add_option("--out", o.out, "where the learned tokenizer.json goes");
  app.add_flag("--ids", o.ids, "only the ids, on one line");
  app.add_flag("--json", o.json, "ids and text as JSON");
  app.add_flag("--no-special", o.no_special, "no begin and end tokens, and none found in the text");
  CLI11_PARSE(app, argc, argv);
  if (!o.train.empty()) return train(o), 0;
  if (o.model.empty()) throw tenon::argument_error("no model is given. Fix: --model FILE, or --train TEXT.");

  std::unique_ptr<tenon::io::gguf_file> file;
  if (o.model.ends_with(".gguf")) file = std::make_unique<tenon::io::gguf_file>(o.model);
  text::tokenizer const t(file ? text::read_vocabulary(*file) : text::read_tokenizer_json(o.model));
  if (!o.decode.empty()) {
    std::string const back = t.decode(read_ids(o.decode), true);
    std::printf("%s\n", back.c_str());
    return 0;
  }
  std::string const content = app.count("--text") ? o.text : from_stdin();
  if (o.chat.empty()) {
    print(o, t, t.encode(content, {.add_special = !o.no_special, .parse_special = !o.no_special}));
    return 0;
  }
  std::string_view how;
  if (o.chat != "model") how = text::built_in_template(o.chat);
  else if (file) how = file->get<std::string_view>("tokenizer.chat_template");
  else throw tenon::argument_error("a tokenizer.json has no chat template. Fix: name a built-in one.");
  print(o, t, text::encode_chat(t, text::jinja::chat_template(how), {{"user", content}}));
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "tokenize: %s\n", e.what());
  return 1;
}
