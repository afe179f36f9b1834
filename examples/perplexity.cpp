// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// How well a model predicts a text: exp of the mean of -log p of each token, given those before it in its chunk.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <tenon/io/mapped_file.hpp>

#include "any_model/engine.hpp"

#include <unistd.h>

namespace {

using namespace tenon;
using clock_type = std::chrono::steady_clock;

struct arguments {
  std::string model, text;
  index_t context = 512, chunks = 0;
  int threads = 0;
  bool json = false;
};

/// -log p of the tokens of chunks. The numbers are those of a trainer's loss, to the bit where the weights are its own.
class teacher {
 public:
  teacher(std::string const& model, index_t longest, int threads)
      : file(model), exec(threads > 0 ? threads : int(std::max(1u, std::thread::hardware_concurrency()))),
        weights(exec, file) {
    engine_options settings{.longest = longest, .cache_tokens = longest, .token_budget = longest, .max_sequences = 1};
    bound =
        infer::bind_model<models::any, any_engine::arithmetic, any_engine::kv_policy>(exec, file, weights, settings);
    allowed.resize(std::size_t(ceil_div(bound.network->vocabulary(), index_t(32))));
    index_t most = 0;
    for (auto const& g : bound.scheduling.groups) most = std::max(most, g.pages);
    pages.groups.assign(bound.scheduling.groups.size(), std::vector<infer::page_id>(std::size_t(most)));
    for (auto& group : pages.groups) std::iota(group.begin(), group.end(), 0);
    batch.reserve(pages.groups.size(), rows_at_once, 1);
  }
  text::tokenizer tokenizer() const { return file.tokenizer(); }

  /// The sum over the tokens [first, size) of a chunk.
  double loss(std::span<std::int32_t const> chunk, index_t first) {
    double sum = 0;
    index_t const end = index_t(chunk.size()) - 1;  // the last token predicts none of the chunk
    for (index_t begin = 0; begin < end; begin += rows_at_once)
      sum += loss_of_rows(chunk, begin, std::min(rows_at_once, end - begin), first);
    return sum;
  }

 private:
  static constexpr index_t rows_at_once = 64;  // of logits, which are large

  double loss_of_rows(std::span<std::int32_t const> chunk, index_t begin, index_t count, index_t first) {
    auto const v = bound.network->vocabulary();
    batch.clear();
    batch.add(chunk.subspan(std::size_t(begin), std::size_t(count)), begin, count, pages);
    logits.resize(std::size_t(count * v));
    bound.network->run(batch, matrix(logits.data(), count, v));
    double sum = 0;
    for (index_t i = std::max<index_t>(0, first - 1 - begin); i < count; ++i) {
      // Of one allowed token, the one that comes is drawn.
      auto const token = std::uint32_t(chunk[std::size_t(begin + i + 1)]);
      allowed[token / 32] = 1u << token % 32;
      ops::sample_row row{.logits = logits.data() + i * v,
                          .options = &greedy,
                          .allowed = allowed,
                          .wants_log_probability = true};
      ops::sample(exec, ops::sample_args{{&row, 1}, v, any_engine::arithmetic::feature_leaf(v)});
      allowed[token / 32] = 0;
      sum -= double(row.log_probability);
    }
    return sum;
  }

  infer::model_file file;
  exec::host_context exec;
  infer::file_weights weights;
  infer::bound_model bound;
  infer::step_batch batch;
  std::vector<float> logits;
  infer::sequence_pages pages;
  std::vector<std::uint32_t> allowed;
  ops::sampling_options greedy{.temperature = 0};
};

void measure(arguments const& a) {
  teacher model(a.model, a.context, a.threads);
  auto const words = model.tokenizer();
  io::mapped_file const content(a.text);
  auto const* const letters = reinterpret_cast<char const*>(content.bytes().data());
  auto const tokens = words.encode({letters, content.size()}, {.add_special = false, .parse_special = false});
  auto const& before = words.parts().before;
  auto const begins = index_t(before.size());
  // With nothing before it, the first token of a chunk is not predicted.
  index_t const fresh = a.context - begins, unseen = begins ? 0 : 1;
  if (fresh < 2)
    throw argument_error("--context " + std::to_string(a.context) + " leaves no token to predict. Fix: a larger one.");
  if (index_t(tokens.size()) <= unseen)
    throw argument_error(a.text + " has " + std::to_string(tokens.size()) +
                         " tokens, of which none can be predicted. Fix: a longer text.");
  index_t chunks = ceil_div(index_t(tokens.size()), fresh);
  if (index_t(tokens.size()) - (chunks - 1) * fresh <= unseen) --chunks;
  if (a.chunks > 0) chunks = std::min(chunks, a.chunks);
  bool const on_terminal = isatty(STDERR_FILENO);
  auto const start = clock_type::now();
  double sum = 0, seconds = 0;
  index_t predicted = 0;
  for (index_t c = 0; c < chunks; ++c) {
    std::vector<std::int32_t> chunk(before);
    auto const part = std::span(tokens).subspan(std::size_t(c * fresh));
    chunk.insert(chunk.end(), part.begin(), part.begin() + std::min<index_t>(fresh, index_t(part.size())));
    sum += model.loss(chunk, begins + unseen);
    predicted += index_t(chunk.size()) - begins - unseen;
    seconds = std::chrono::duration<double>(clock_type::now() - start).count();
    if (on_terminal)
      std::fprintf(stderr, "chunk %td of %td: perplexity %.4f, %.0f s left\033[K\r", c + 1, chunks,
                   std::exp(sum / double(predicted)), seconds / double(c + 1) * double(chunks - c - 1));
  }
  if (on_terminal) std::fprintf(stderr, "\033[K");
  double const loss = sum / double(predicted);
  if (a.json)
    std::printf("%s\n", nlohmann::json{{"perplexity", std::exp(loss)},
                                       {"loss", loss},
                                       {"tokens", predicted},
                                       {"chunks", chunks},
                                       {"context", a.context},
                                       {"seconds", seconds},
                                       {"tokens_per_second", double(predicted) / seconds}}
                            .dump()
                            .c_str());
  else
    std::printf("perplexity %.4f (loss %.5f) over %td tokens in %td chunks of %td, %.1f tokens/s\n", std::exp(loss),
                loss, predicted, chunks, a.context, double(predicted) / seconds);
}

}  // namespace

int main(int argc, char** argv) try {
  arguments a;
  CLI::App app{"Measures how well a model predicts a text: the exponential of its mean loss per token."};
  app.add_option("--model", a.model, "a .gguf file, a folder with config.json and safetensors, or a checkpoint")
      ->required();
  app.add_option("--text", a.text, "the file to predict")->required();
  app.add_option("--context", a.context, "tokens of a chunk; no token sees another chunk")
      ->check(CLI::Range(2, 1000000))
      ->capture_default_str();
  app.add_option("--chunks", a.chunks, "at most so many; 0: the whole text")->check(CLI::Range(0, 1000000000));
  app.add_option("--threads", a.threads, "0: all processors; they do not change the result")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  CLI11_PARSE(app, argc, argv);
  measure(a);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "perplexity: %s\n", e.what());
  return 1;
}
