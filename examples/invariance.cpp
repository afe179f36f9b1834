// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// Serves the same requests alone, in batches, in chunks, from cached prefixes, after preemption, with other threads, and
// compares digests of all logits that tokens were drawn from.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/io/sha256.hpp>

#include <unistd.h>

#include "any_model/engine.hpp"

namespace {

using namespace tenon;

struct arguments {
  std::string model;
  index_t requests = 16, prompt = 48, new_tokens = 32;
  bool json = false;
};

/// A way to serve the requests.
struct manner {
  std::string name;
  engine_options options;
  index_t together = 0;  ///< requests at a time; 0: all
  int rounds = 1;        ///< the later ones find the prefixes of the first
};

std::vector<infer::generation> make_requests(arguments const& a, index_t vocabulary) {
  std::vector<infer::generation> all;
  random_stream const random(1, "prompts");
  for (index_t i = 0; i < a.requests; ++i) {
    infer::generation g{.max_tokens = a.new_tokens};
    index_t const length = 1 + a.prompt * (i + 1) / a.requests;
    // Every other prompt begins as its neighbour does.
    for (index_t k = 0; k < length; ++k)
      g.prompt.push_back(std::int32_t(random.word(std::uint64_t(k < length / 2 ? i / 2 : i), std::uint64_t(k)) %
                                      std::uint32_t(vocabulary)));
    g.sampling = {.temperature = i % 2 ? 1.0f : 0.0f, .top_k = 50, .seed = std::uint64_t(i)};
    all.push_back(std::move(g));
  }
  return all;
}

/// The digest of each request, of each round.
std::vector<std::vector<std::string>> serve(arguments const& a, manner const& m, index_t& rows) {
  any_engine e{a.model, m.options};
  auto const all = make_requests(a, e.vocabulary());
  std::vector<std::vector<std::string>> digests(all.size());
  for (int round = 0; round < m.rounds; ++round) {
    index_t const together = m.together ? m.together : index_t(all.size());
    for (index_t first = 0; first < index_t(all.size()); first += together) {
      index_t const end = std::min(index_t(all.size()), first + together);
      std::vector<io::sha256> sums(std::size_t(end - first));
      for (index_t i = first; i < end; ++i)
        e.submit(all[std::size_t(i)], [&, i](infer::new_token const& t) {
          sums[std::size_t(i - first)].update(&t.token, sizeof t.token);
          sums[std::size_t(i - first)].update(t.logits.data(), t.logits.size_bytes());
          ++rows;
          return true;
        });
      while (e.step()) {
      }
      for (index_t i = first; i < end; ++i)
        digests[std::size_t(i)].push_back(sums[std::size_t(i - first)].finish_hex());
    }
  }
  return digests;
}

bool compare(arguments const& a) {
  index_t const longest = a.prompt + a.new_tokens + 1;
  int const cores = int(std::max(1u, std::thread::hardware_concurrency()));
  engine_options const usual{.longest = longest, .cache_tokens = longest * a.requests, .threads = cores};
  auto const with = [&](auto&& change) {
    engine_options o = usual;
    change(o);
    return o;
  };
  std::vector<manner> const manners{
      {"alone", with([](auto& o) { o.keeps_prefixes = false; }), 1},
      {"alone, one thread", with([](auto& o) { o.keeps_prefixes = false, o.threads = 1; }), 1},
      {"in pairs", usual, 2},
      {"all together, twice: the second time prefixes are known", usual, 0, 2},
      {"in chunks of 7 tokens", with([](auto& o) { o.token_budget = 7, o.max_sequences = 5; })},
      {"in a cache so small that they give way to each other",
       with([&](auto& o) { o.cache_tokens = 2 * longest, o.token_budget = 24, o.max_sequences = 8; })}};
  std::vector<std::set<std::string>> distinct(std::size_t(a.requests));
  nlohmann::json list = nlohmann::json::array();
  index_t all_rows = 0;
  auto const begin = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < manners.size(); ++i) {
    if (isatty(STDERR_FILENO))
      std::fprintf(stderr, "%zu of %zu: %s\033[K\r", i + 1, manners.size(), manners[i].name.c_str());
    index_t rows = 0;
    auto const digests = serve(a, manners[i], rows);
    for (std::size_t r = 0; r < digests.size(); ++r) distinct[r].insert(digests[r].begin(), digests[r].end());
    all_rows += rows;
    list.push_back({{"manner", manners[i].name}, {"rows", rows}, {"digest_of_first", digests[0][0]}});
    if (!a.json)
      std::printf("%-60s %8td rows of logits, first request %.12s\n", manners[i].name.c_str(), rows,
                  digests[0][0].c_str());
  }
  std::size_t most = 0;
  for (auto const& d : distinct) most = std::max(most, d.size());
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (a.json)
    std::printf("%s\n", nlohmann::ordered_json{{"model", a.model},
                                               {"requests", a.requests},
                                               {"rows", all_rows},
                                               {"seconds", seconds},
                                               {"manners", list},
                                               {"distinct_hashes_per_request", most}}
                            .dump(1)
                            .c_str());
  else
    std::printf("%td requests, %td rows in %.0f s: %zu distinct hashes per request\n", a.requests, all_rows, seconds,
                most);
  return most == 1;
}

}  // namespace

int main(int argc, char** argv) try {
  arguments a;
  CLI::App app{"Checks that a request gets the same logits, to the bit, in any company."};
  app.add_option("--model", a.model, "a .gguf file, a folder with config.json and safetensors, or a checkpoint")
      ->required();
  app.add_option("--requests", a.requests, "how many requests")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("--prompt-tokens", a.prompt, "tokens of the longest prompt")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--new-tokens", a.new_tokens, "tokens that each request generates")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  CLI11_PARSE(app, argc, argv);
  return compare(a) ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "invariance: %s\n", e.what());
  return 1;
}
