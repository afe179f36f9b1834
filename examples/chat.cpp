// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// Talks with a model, a line at a time. What was said before is in the cache: a turn costs its own tokens only.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <tenon/infer/stop.hpp>

#include "any_model/engine.hpp"
#include "any_model/flags.hpp"

#include <unistd.h>

namespace {

using namespace tenon;

volatile std::sig_atomic_t is_interrupted = 0;

constexpr char const* help =
    "/clear  begins anew\n"
    "/help   shows this\n"
    "/quit   ends the program, as the end of the input does\n"
    "Ctrl-C  ends an answer\n";

void show(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

class conversation {
 public:
  explicit conversation(generation_flags const& f, std::string const& system_prompt)
      : flags(f), e(f.model, f.engine), words(e.tokenizer()), format(chat_format(f, e.model())),
        ends(e.model().end_tokens(words)), system(system_prompt) {
    clear();
  }
  void clear() {
    messages.clear();
    if (!system.empty()) messages.push_back({"system", system});
  }
  /// Shows the answer as it comes. What cannot be answered leaves the conversation as it was.
  void answer(std::string const& line) {
    auto said = messages;
    said.push_back({"user", line});
    auto request = flags.request;
    request.prompt = text::encode_chat(words, format, said);
    index_t const room = e.longest() - index_t(request.prompt.size());
    if (room <= 0)
      throw argument_error("the conversation has " + std::to_string(request.prompt.size()) +
                           " tokens, and the longest sequence " + std::to_string(e.longest()) +
                           ". Fix: /clear, or a larger --context.");
    request.max_tokens = std::min(request.max_tokens, room);
    text::detokenizer pieces(words);
    infer::stop_check end({.max_new_tokens = request.max_tokens, .tokens = ends, .strings = flags.stops});
    std::string answer;
    auto const add = [&](std::string_view piece) {
      show(piece);
      answer += piece;
    };
    is_interrupted = 0;
    auto const id = e.submit(std::move(request), [&](infer::new_token const& t) {
      if (t.token >= 0) add(end.push(t.token, pieces.push(t.token)));
      return end.reason() == infer::finish_reason::none;
    });
    while (e.step())
      if (is_interrupted) e.cancel(id);
    if (end.reason() == infer::finish_reason::none) add(end.flush());
    show(is_interrupted ? " (stopped)\n" : "\n");
    said.push_back({"assistant", std::move(answer)});
    messages = std::move(said);
  }

 private:
  generation_flags const& flags;
  any_engine e;
  text::tokenizer const& words;
  text::jinja::chat_template format;
  std::vector<text::token_id> ends;
  std::string system;
  std::vector<text::message> messages;
};

void talk(generation_flags const& flags, std::string const& system) {
  conversation with_model(flags, system);
  bool const is_terminal = isatty(STDIN_FILENO);
  if (is_terminal) show(help);
  std::signal(SIGINT, [](int) { is_interrupted = 1; });
  for (std::string line; is_terminal ? show("> ") : void(), std::getline(std::cin, line);) {
    if (line == "/quit") return;
    else if (line == "/clear") with_model.clear();
    else if (line == "/help") show(help);
    else if (line.starts_with('/')) std::fprintf(stderr, "chat: there is no %s. Fix: /help.\n", line.c_str());
    else if (!line.empty()) try {
        with_model.answer(line);
      } catch (error const& problem) {
        std::fprintf(stderr, "chat: %s\n", problem.what());
      }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  generation_flags flags;
  flags.chat_format = "model";
  flags.request.max_tokens = 1024;
  std::string system;
  CLI::App app{"Talks with a model: a line in, an answer out."};
  add_flags(app, flags);
  app.add_option("--system", system, "what the model is told before the conversation");
  CLI11_PARSE(app, argc, argv);
  talk(flags, system);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "chat: %s\n", e.what());
  return 1;
}
