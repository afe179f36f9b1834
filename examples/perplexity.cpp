// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// How well a model predicts a text: exp of the mean of -log p of each token, given those before it in its chunk.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "any_model/reader.hpp"

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
        weights(exec, file), network(exec, file, weights, longest) {
    allowed.resize(std::size_t(ceil_div(network.vocabulary(), index_t(32))));
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
    auto const v = network.vocabulary();
    logits.resize(std::size_t(count * v));
    network.read(chunk, begin, count, matrix(logits.data(), count, v));
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
  reader network;
  std::vector<float> logits;
  std::vector<std::uint32_t> allowed;
  ops::sampling_options greedy{.temperature = 0};
};

void measure(arguments const& a) {
  teacher model(a.model, a.context, a.threads);
  auto const words = model.tokenizer();
  auto const all = chunks_of(a.text, words, a.context);
  index_t const chunks = a.chunks > 0 ? std::min(a.chunks, index_t(all.size())) : index_t(all.size());
  index_t const first = std::max<index_t>(1, index_t(words.parts().before.size()));  // that is predicted
  bool const on_terminal = isatty(STDERR_FILENO);
  auto const start = clock_type::now();
  double sum = 0, seconds = 0;
  index_t predicted = 0;
  for (index_t c = 0; c < chunks; ++c) {
    auto const& chunk = all[std::size_t(c)];
    sum += model.loss(chunk, first);
    predicted += index_t(chunk.size()) - first;
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
