// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// Continues a text with a model from a file, token by token as they come.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <tenon/infer/stop.hpp>
#include <tenon/text/chat.hpp>

#include "any_model/engine.hpp"

namespace {

using namespace tenon;
using clock_type = std::chrono::steady_clock;

struct arguments {
  std::string model, prompt, chat;
  index_t max_tokens = 128, context = 0;
  ops::sampling_options sampling{.temperature = 0.8f, .top_k = 40, .top_p = 0.95f};
  std::vector<std::string> stops;
  index_t likeliest = 0, drafts = 0;
  int threads = 0;
  bool json = false;
};

double seconds_since(clock_type::time_point begin) {
  return std::chrono::duration<double>(clock_type::now() - begin).count();
}

nlohmann::json log_probability_of(text::tokenizer const& words, std::int32_t token, float value) {
  return {{"token", words.decode(std::vector{token}, true)}, {"id", token}, {"logprob", value}};
}

/// The prompt as a user's message, as the chat format wants it.
std::vector<std::int32_t> as_message(arguments const& a, infer::model_file const& file, text::tokenizer const& words) {
  std::string format(a.chat == "model" ? "" : text::built_in_template(a.chat));
  if (a.chat == "model") {
    if (file.gguf()) format = file.gguf()->find_value<std::string_view>("tokenizer.chat_template").value_or("");
    if (format.empty())
      throw file_error(a.model, "has no chat template. Fix: name a format, e.g. --chat gemma, or leave --chat out.");
  }
  return text::encode_chat(words, text::jinja::chat_template(format), {{"user", a.prompt}});
}

void generate(arguments const& a) {
  auto const start = clock_type::now();
  any_engine e{a.model, {.longest = a.context, .threads = a.threads}};
  auto const& words = e.tokenizer();
  double const load = seconds_since(start);
  auto const prompt = a.chat.empty() ? words.encode(a.prompt) : as_message(a, e.model(), words);
  text::detokenizer pieces(words);
  std::vector<std::int32_t> tokens;
  std::string continued;
  nlohmann::json log_probabilities = nlohmann::json::array();
  double first_token = 0;
  auto const ends = e.model().end_tokens(words);
  infer::stop_check end({.max_new_tokens = a.max_tokens, .tokens = ends, .strings = a.stops});
  auto const show = [&](std::string_view piece) {
    continued += piece;
    if (a.json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  if (!a.json) std::printf("%s", a.prompt.c_str());
  e.submit({.prompt = prompt,
            .max_tokens = a.max_tokens,
            .sampling = a.sampling,
            .wants_log_probabilities = a.json,
            .drafts = a.drafts,
            .likeliest = a.likeliest},
           [&](infer::new_token const& t) {
             if (tokens.empty()) first_token = seconds_since(start);
             tokens.push_back(t.token);
             if (a.json) {
               auto entry = log_probability_of(words, t.token, t.log_probability);
               for (auto const& other : t.likeliest)
                 entry["top"].push_back(log_probability_of(words, other.token, other.value));
               log_probabilities.push_back(std::move(entry));
             }
             bool const is_end = std::find(ends.begin(), ends.end(), t.token) != ends.end();
             show(end.push(t.token, is_end ? std::string_view() : pieces.push(t.token)));
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
                               {"prompt_tokens", prompt.size()},
                               {"prompt_token_ids", prompt},
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
  app.add_option("--model", a.model, "a .gguf file, a folder with config.json and safetensors, or a checkpoint")
      ->required();
  app.add_option("--prompt", a.prompt, "what the text begins with")->required();
  app.add_option("--chat", a.chat,
                 "take the prompt as a user's message, in the format that the file brings (model) or a built-in one: "
                 "chatml, qwen, llama2, llama3, gemma, mistral");
  app.add_option("--max-tokens", a.max_tokens, "tokens to generate, at most")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--context", a.context,
                 "tokens of prompt and continuation, at most (default: the model's, up to 8192)");
  app.add_option("--temperature", a.sampling.temperature, "0: always the likeliest token")->capture_default_str();
  app.add_option("--top-k", a.sampling.top_k, "draw among the k likeliest tokens; 0: all")->capture_default_str();
  app.add_option("--top-p", a.sampling.top_p, "... of which the likeliest that have this probability together")
      ->capture_default_str();
  app.add_option("--min-p", a.sampling.min_p, "... and at least this part of the likeliest one's probability")
      ->capture_default_str();
  app.add_option("--repetition-penalty", a.sampling.repetition_penalty, "divides the logits of tokens that were there")
      ->capture_default_str();
  app.add_option("--stop", a.stops, "end the text before this string; may be given several times");
  app.add_option("--drafts", a.drafts,
                 "tokens that are guessed from repetitions and tried at once: the same text, sooner")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  app.add_option("--seed", a.sampling.seed, "of the random numbers")->capture_default_str();
  app.add_option("--logprobs", a.likeliest, "with --json: so many of the likeliest tokens at each place")
      ->check(CLI::Range(0, 100));
  app.add_option("--threads", a.threads, "0: all processors")->capture_default_str();
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  CLI11_PARSE(app, argc, argv);
  generate(a);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "generate: %s\n", e.what());
  return 1;
}
