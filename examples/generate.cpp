// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// Continues a text with a model from a file, token by token as they come.
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <tenon/infer/stop.hpp>

#include "any_model/engine.hpp"
#include "any_model/flags.hpp"

namespace {

using namespace tenon;
using clock_type = std::chrono::steady_clock;

struct arguments : generation_flags {
  std::string prompt;
  bool json = false;
};

double seconds_since(clock_type::time_point begin) {
  return std::chrono::duration<double>(clock_type::now() - begin).count();
}

nlohmann::json log_probability_of(text::tokenizer const& words, std::int32_t token, float value) {
  return {{"token", words.decode(std::vector{token}, true)}, {"id", token}, {"logprob", value}};
}

void generate(arguments const& a) {
  auto const start = clock_type::now();
  any_engine e{a.model, a.engine};
  auto const& words = e.tokenizer();
  double const load = seconds_since(start);
  auto request = a.request;
  request.prompt = a.chat_format.empty() ? words.encode(a.prompt)
                                         : text::encode_chat(words, chat_format(a, e.model()), {{"user", a.prompt}});
  request.stop_tokens = e.model().end_tokens(words);
  request.wants_log_probabilities = a.json;
  text::detokenizer pieces(words);
  std::vector<std::int32_t> tokens;
  std::string continued;
  nlohmann::json log_probabilities = nlohmann::json::array();
  double first_token = 0;
  infer::stop_check end({.max_new_tokens = request.max_tokens, .tokens = request.stop_tokens, .strings = a.stops});
  auto const show = [&](std::string_view piece) {
    continued += piece;
    if (a.json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  if (!a.json) std::printf("%s", a.prompt.c_str());
  e.submit(request, [&](infer::new_token const& t) {
    if (tokens.empty()) first_token = seconds_since(start);
    tokens.push_back(t.token);
    if (a.json) {
      auto entry = log_probability_of(words, t.token, t.log_probability);
      for (auto const& other : t.likeliest) entry["top"].push_back(log_probability_of(words, other.token, other.value));
      log_probabilities.push_back(std::move(entry));
    }
    show(end.push(t.token, pieces.push(t.token)));
    return end.reason() == infer::finish_reason::none;
  });
  while (e.step()) {
  }
  double const all = seconds_since(start), decode = all - first_token;
  double const rate = tokens.size() > 1 ? double(tokens.size() - 1) / decode : 0;
  if (a.json) {
    std::printf("%s\n",
                nlohmann::json{{"text", continued},
                               {"token_ids", tokens},
                               {"prompt_tokens", request.prompt.size()},
                               {"prompt_token_ids", request.prompt},
                               {"logprobs", log_probabilities},
                               {"finish_reason", end.reason() == infer::finish_reason::length ? "length" : "stop"},
                               {"load_seconds", load},
                               {"first_token_seconds", first_token},
                               {"seconds", all},
                               {"tokens_per_second", rate}}
                    .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                    .c_str());
    return;
  }
  std::fprintf(stderr, "\n\n%zu tokens, %.1f tokens/s; first token %.0f ms after the start, of which loading %.0f ms\n",
               tokens.size(), rate, first_token * 1e3, load * 1e3);
}

}  // namespace

int main(int argc, char** argv) try {
  arguments a;
  CLI::App app{"Continues a text with a model. The same request gives the same text, whatever the threads."};
  add_flags(app, a);
  app.add_option("--prompt", a.prompt, "what the text begins with; with --chat a user's message")->required();
  app.add_option("--beams", a.request.beams, "search for the likeliest text with so many beams; it comes at the end")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--logprobs", a.request.likeliest, "with --json: so many of the likeliest tokens at each place")
      ->check(CLI::Range(0, 100));
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  CLI11_PARSE(app, argc, argv);
  generate(a);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "generate: %s\n", e.what());
  return 1;
}
