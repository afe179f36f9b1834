// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// Texts to vectors of length 1, and how much they mean the same.
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "any_model/engine.hpp"

namespace {

using namespace tenon;
using clock_type = std::chrono::steady_clock;

struct arguments {
  std::string model, file;
  std::vector<std::string> texts;
  embedder_options options;
  bool json = false, similarity = false, whole = false;
};

double seconds_since(clock_type::time_point begin) {
  return std::chrono::duration<double>(clock_type::now() - begin).count();
}

std::vector<std::string> texts_of(arguments const& a) {
  auto texts = a.texts;
  if (a.file.empty()) return texts;
  std::ifstream in(a.file);
  if (!in) throw file_error(a.file, "cannot be read. Fix: a file with a text on each line.");
  for (std::string line; std::getline(in, line);) texts.push_back(line);
  return texts;
}

/// The cosine of each pair, with the texts on the left.
void print_similarities(std::vector<std::string> const& texts, matrix_view<float const> vectors) {
  auto const dot = [&](index_t a, index_t b) {
    return std::inner_product(&vectors(a, 0), &vectors(a, 0) + vectors.extent(1), &vectors(b, 0), 0.0);
  };
  for (index_t a = 0; a < vectors.extent(0); ++a) {
    for (index_t b = 0; b < vectors.extent(0); ++b) std::printf("%7.3f", dot(a, b));
    std::printf("  %s\n", texts[std::size_t(a)].c_str());
  }
}

void run(arguments const& a) {
  auto const start = clock_type::now();
  embedder<> e(a.model, a.options);
  double const load = seconds_since(start);
  auto const texts = texts_of(a);
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<std::size_t> counts;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    auto t = e.tokens(texts[i]);
    if (t.left_out > 0) {
      std::string const what = "text " + std::to_string(i + 1) + " has " + std::to_string(t.left_out) +
                               " tokens more than the " + std::to_string(e.longest()) + " that are read";
      if (a.whole) throw argument_error(what + ". Fix: shorter texts, or without --whole, to leave their ends out.");
      std::fprintf(stderr, "embed: %s: its end is left out\n", what.c_str());
    }
    counts.push_back(t.ids.size());
    tokens.push_back(std::move(t.ids));
  }
  std::vector<float> values(texts.size() * std::size_t(e.width()));
  auto const vectors = matrix(values.data(), index_t(texts.size()), e.width());
  e.embed(tokens, vectors);
  double const all = seconds_since(start);
  double const rate = double(std::accumulate(counts.begin(), counts.end(), std::size_t(0))) / (all - load);
  if (a.json) {
    nlohmann::json rows = nlohmann::json::array();
    for (index_t i = 0; i < vectors.extent(0); ++i)
      rows.push_back(std::vector<float>(&vectors(i, 0), &vectors(i, 0) + e.width()));
    std::printf("%s\n", nlohmann::json{{"embeddings", rows},
                                       {"tokens", counts},
                                       {"load_seconds", load},
                                       {"seconds", all},
                                       {"tokens_per_second", rate}}
                            .dump()
                            .c_str());
  } else if (a.similarity) {
    print_similarities(texts, as_const(vectors));
  } else {
    for (index_t i = 0; i < vectors.extent(0); ++i)
      for (index_t k = 0; k < e.width(); ++k)
        std::printf("%.9g%c", double(vectors(i, k)), k + 1 < e.width() ? ' ' : '\n');
  }
  if (!a.json) std::fprintf(stderr, "%zu texts, %.0f tokens/s; loading took %.0f ms\n", texts.size(), rate, load * 1e3);
}

}  // namespace

int main(int argc, char** argv) try {
  arguments a;
  CLI::App app{"Makes a vector of length 1 of each text: a text's is the same, whatever the others and the threads."};
  app.add_option("--model", a.model, "an encoder: a folder with config.json and safetensors, or a .gguf file")
      ->required();
  auto* const texts = app.add_option("--text", a.texts, "a text; may be given several times");
  app.add_option("--file", a.file, "a text on each line");
  app.add_option("--pooling", a.options.pool, "what of a text's states is taken (default: as the model says)")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, pooling>{{"mean", pooling::mean}, {"cls", pooling::cls}}));
  app.add_option("--longest", a.options.longest, "tokens that are read of a text (default: as the model says)");
  app.add_flag("--whole", a.whole, "refuse a longer text instead of leaving its end out");
  app.add_flag("--similarity", a.similarity, "print the cosine of each pair of texts, not the vectors");
  app.add_option("--threads", a.options.threads, "0: all processors")->capture_default_str();
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  CLI11_PARSE(app, argc, argv);
  if (texts->empty() && a.file.empty()) throw argument_error("no text is given. Fix: --text TEXT, or --file FILE.");
  run(a);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "embed: %s\n", e.what());
  return 1;
}
