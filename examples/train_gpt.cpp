// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Trains a GPT-2, Llama or Mixtral shaped model on the bytes of any text: the program behind the quickstart.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "train_gpt/arguments.hpp"

int main(int argc, char** argv) {
  train_gpt::arguments a;
  CLI::App app{"Trains a GPT on the bytes of a text, on one machine. Results do not depend on --threads."};
  std::vector<std::string> names;
  for (auto const& m : train_gpt::models()) names.push_back(m.first);
  app.add_option("--model", a.model, "the model's shape")->check(CLI::IsMember(names))->capture_default_str();
  app.add_option("--precision", a.precision, "element types")
      ->check(CLI::IsMember({"fp32", "bf16_mixed"}))
      ->capture_default_str();
  app.add_option("--text", a.text,
                 "files to learn, or folders of text files (default: this project's sources and documents)");
  app.add_option("--steps", a.steps, "train until this step")->check(CLI::Range(0l, 100000000l))->capture_default_str();
  app.add_option("--batch", a.batch, "sequences per step")->check(CLI::Range(1l, 1000000l))->capture_default_str();
  app.add_option("--accumulate", a.accumulate, "micro-batches per step: less memory, the same bits")
      ->check(CLI::Range(1l, 1000000l))
      ->capture_default_str();
  app.add_option("--context", a.context, "tokens per sequence (default: the model's)")->check(CLI::Range(1l, 1000000l));
  app.add_option("--learning-rate", a.learning_rate, "the peak; warm-up and cosine decay around it")
      ->capture_default_str();
  app.add_option("--dropout", a.dropout, "share of activations dropped")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  app.add_option("--seed", a.seed, "of weights, data order, dropout and samples")->capture_default_str();
  app.add_option("--threads", a.threads, "0: one per processor")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--out", a.out, "folder for checkpoints, metrics.jsonl and loss.svg (default: nothing is written)");
  app.add_flag("--resume", a.resume, "continue from the newest checkpoint in --out");
  app.add_option("--checkpoint-every", a.checkpoint_every, "steps between checkpoints; 0: at the end only")
      ->check(CLI::Range(0l, 100000000l))
      ->capture_default_str();
  app.add_option("--evaluate-every", a.evaluate_every, "steps between evaluations; 0: at the end only")
      ->check(CLI::Range(0l, 100000000l))
      ->capture_default_str();
  app.add_option("--prompt", a.prompt, "what samples begin with")->capture_default_str();
  app.add_option("--sample-tokens", a.sample_tokens, "length of the samples; 0: none")
      ->check(CLI::Range(0l, 100000l))
      ->capture_default_str();
  app.add_option("--trace", a.trace, "write a trace that Perfetto and chrome://tracing open");
  app.add_flag("--table", a.table, "print time, GFLOP/s and GB/s of each operation");
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  try {
    app.parse(argc, argv);
    if (a.resume && a.out.empty()) throw tenon::argument_error("--resume needs to know where. Fix: add --out FOLDER.");
    if (a.prompt.empty()) throw tenon::argument_error("--prompt is empty. Fix: at least one character.");
    if (a.text.empty()) a.text = {TENON_SOURCE_DIR};
    return a.precision == "fp32" ? train_gpt::run_fp32(a) : train_gpt::run_bf16_mixed(a);
  } catch (CLI::CallForHelp const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    std::fprintf(stderr, "train_gpt: %s. Fix: see --help.\n", e.what());
    return 2;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "train_gpt: %s\n", e.what());
    return 1;
  }
}
