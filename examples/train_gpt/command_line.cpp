// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdio>

#include <CLI/CLI.hpp>

#include "arguments.hpp"

namespace train_gpt {

std::optional<arguments> read_command_line(int argc, char** argv, char const* about,
                                           std::optional<tenon::comm::mesh_shape> mesh, bool prints, bool replays) {
  arguments a;
  CLI::App app{about};
  std::vector<std::string> names;
  for (auto const& m : models()) names.push_back(m.first);
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
  app.add_option("--threads", a.threads, "of each rank; 0: the processors, shared among the ranks")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--out", a.out, "folder for checkpoints, metrics.jsonl and loss.svg (default: nothing is written)");
  app.add_flag("--resume", a.resume, "continue from the newest good checkpoint in --out");
  app.add_option("--checkpoint-every", a.checkpoint_every, "steps between checkpoints; 0: at the end only")
      ->check(CLI::Range(0l, 100000000l))
      ->capture_default_str();
  app.add_option("--keep-checkpoints", a.keep_checkpoints, "how many of the newest checkpoints stay")
      ->check(CLI::Range(1l, 100000000l))
      ->capture_default_str();
  app.add_option("--keep-every", a.keep_every, "checkpoints of every so many steps stay too; 0: none for its number")
      ->check(CLI::Range(0l, 100000000l))
      ->capture_default_str();
  app.add_flag("--receipts", a.receipts, "write hashes of every step to receipts/ in --out, for replay");
  app.add_option("--flip", a.flip, "flip a bit on purpose, to see it found: RANK,STEP,ITEM,ELEMENT,BIT[,behind]");
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
  std::string axes;
  if (mesh) {
    a.mesh = *mesh;
    axes = to_string(*mesh);
    app.add_option("--mesh", axes, "ranks along each axis, as in data=2,tensor=2")->capture_default_str();
    app.add_option("--zero", a.zero, "what data-parallel ranks share out: 1 optimizer state, 2 gradients, 3 parameters")
        ->check(CLI::Range(0, 3))
        ->capture_default_str();
    app.add_option("--schedule", a.schedule, "the order of micro-batches in a pipeline")
        ->check(CLI::IsMember({"gpipe", "1f1b", "interleaved", "zero_bubble"}))
        ->capture_default_str();
    app.add_option("--exchange", a.exchange, "how context-parallel ranks move keys and values")
        ->check(CLI::IsMember({"ring", "all_to_all", "all_gather"}))
        ->capture_default_str();
    app.add_flag("--sequence-parallel", a.sequence_parallel, "tensor-parallel ranks cut norms along the sequence");
  }
  index_t step = 0;
  if (replays) {
    auto const a_step = CLI::Range(1l, 100000000l);
    app.add_option("--step", step, "the step to do again")->check(a_step);
    app.add_option("--from", a.from, "the first step to do again (default: as far back as can be)")->check(a_step);
    app.add_option("--to", a.to, "the last one (default: the last that has a receipt)")->check(a_step);
  }
  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const& e) {
    if (prints) app.exit(e);
    return {};
  } catch (CLI::ParseError const& e) {
    throw tenon::argument_error(std::string(e.what()) + ". Fix: see --help.");
  }
  if (mesh) a.mesh = tenon::comm::parse_mesh(axes);
  if (a.resume && a.out.empty()) throw tenon::argument_error("--resume needs to know where. Fix: add --out FOLDER.");
  if (step) a.from = a.to = step;
  if (a.receipts && a.out.empty())
    throw tenon::argument_error("--receipts needs to know where. Fix: add --out FOLDER.");
  if (a.prompt.empty()) throw tenon::argument_error("--prompt is empty. Fix: at least one character.");
  if (a.text.empty()) a.text = {TENON_SOURCE_DIR};
  return a;
}

}  // namespace train_gpt
