// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What the programs that generate text have in common: their flags, and the format of chats.
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <tenon/infer/model_file.hpp>
#include <tenon/text/chat.hpp>

#include "engine.hpp"

namespace tenon {

struct generation_flags {
  std::string model, chat_format;
  engine_options engine;
  infer::generation request{.sampling = {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f}};
  std::vector<std::string> stops;
};

inline void add_flags(CLI::App& app, generation_flags& f) {
  app.add_option("--model", f.model, "a .gguf file, a folder with config.json and safetensors, or a checkpoint")
      ->required();
  app.add_option("--chat", f.chat_format,
                 "the format of messages: that which the file brings (model) or a built-in one (chatml, qwen, llama2, "
                 "llama3, gemma, mistral)")
      ->capture_default_str();
  app.add_option("--max-tokens", f.request.max_tokens, "tokens to generate, at most")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--context", f.engine.longest,
                 "tokens of prompt and continuation, at most (default: the model's, up to 8192)");
  auto& sampling = f.request.sampling;
  app.add_option("--temperature", sampling.temperature, "0: always the likeliest token")->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "draw among the k likeliest tokens; 0: all")->capture_default_str();
  app.add_option("--top-p", sampling.top_p, "... of which the likeliest that have this probability together")
      ->capture_default_str();
  app.add_option("--min-p", sampling.min_p, "... and at least this part of the likeliest one's probability")
      ->capture_default_str();
  app.add_option("--repetition-penalty", sampling.repetition_penalty, "divides the logits of tokens that were there")
      ->capture_default_str();
  app.add_option("--seed", sampling.seed, "of the random numbers")->capture_default_str();
  app.add_option("--stop", f.stops, "end the text before this string; may be given several times");
  auto* const drafts =
      app.add_option("--drafts", f.request.drafts, "tokens that are guessed and tried at once: the same text, sooner")
          ->check(CLI::Range(0, 64))
          ->capture_default_str();
  app.add_option("--draft-model", f.engine.draft_model,
                 "a smaller model with the same tokens that guesses them; else repetitions in the text do")
      ->needs(drafts);
  app.add_option("--threads", f.engine.threads, "0: all processors")->capture_default_str();
}

/// @error file_error when the file's own format is asked for and it has none; argument_error for an unknown name
inline text::jinja::chat_template chat_format(generation_flags const& f, infer::model_file const& file) {
  if (f.chat_format != "model") return text::jinja::chat_template(std::string(text::built_in_template(f.chat_format)));
  std::string const own = file.chat_template();
  if (own.empty())
    throw file_error(f.model, "has no chat template. Fix: name a format, e.g. --chat chatml, or a model for chats.");
  return text::jinja::chat_template(own);
}

}  // namespace tenon
