// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// Serves the same requests alone, in batches, in chunks, from cached prefixes, after preemption, with other threads,
// pages and ranks, with guessed tokens, and compares digests of all logits that tokens were drawn from.
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
#include <tenon/comm/threads.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/io/sha256.hpp>

#include <unistd.h>

#include "any_model/engine.hpp"

namespace {

using namespace tenon;

struct arguments {
  std::string model;
  index_t requests = 16, prompt = 48, new_tokens = 32, rows = 0;
  bool json = false;
};

/// A way to serve the requests.
struct manner {
  std::string name;
  engine_options options;
  index_t together = 0;  ///< requests at a time; 0: all
  int rounds = 1;        ///< the later ones find the prefixes of the first
  index_t drafts = 0;
  enum class engine { of_one_rank, with_contiguous_cache, of_two_ranks } served_by = engine::of_one_rank;
};

/// Rows of logits so far, and on a terminal how long the others will take.
class progress {
 public:
  explicit progress(index_t all) : total(all) {}
  void add(std::string const& what) {
    ++done;
    double const seconds = this->seconds();
    if (!is_shown || seconds < next) return;
    next = seconds + 0.2;
    std::fprintf(stderr, "%td of %td rows, %.0f s left: %s\033[K\r", done, total,
                 seconds / double(done) * double(total - done), what.c_str());
  }
  index_t rows() const { return done; }
  double seconds() const { return std::chrono::duration<double>(clock::now() - begin).count(); }

 private:
  using clock = std::chrono::steady_clock;
  index_t total, done = 0;
  clock::time_point begin = clock::now();
  double next = 0;
  bool is_shown = isatty(STDERR_FILENO);
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

/// The digests of each request, of each round.
using digests = std::vector<std::vector<std::string>>;

/// @param all null: not counted, on the other ranks of a mesh
template <class Engine>
digests serve(Engine&& e, arguments const& a, manner const& m, progress* all) {
  auto const requests = make_requests(a, e.vocabulary());
  digests out(requests.size());
  for (int round = 0; round < m.rounds; ++round) {
    index_t const together = m.together ? m.together : a.requests;
    for (index_t first = 0; first < a.requests; first += together) {
      index_t const end = std::min(a.requests, first + together);
      std::vector<io::sha256> sums(std::size_t(end - first));
      for (index_t i = first; i < end; ++i) {
        auto request = requests[std::size_t(i)];
        request.drafts = m.drafts;
        e.submit(std::move(request), [&, i](infer::new_token const& t) {
          sums[std::size_t(i - first)].update(&t.token, sizeof t.token);
          sums[std::size_t(i - first)].update(t.logits.data(), t.logits.size_bytes());
          if (all) all->add(m.name);
          return true;
        });
      }
      while (e.step()) {
      }
      for (index_t i = first; i < end; ++i) out[std::size_t(i)].push_back(sums[std::size_t(i - first)].finish_hex());
    }
  }
  return out;
}

digests serve(arguments const& a, manner const& m, progress& all) {
  if (m.served_by == manner::engine::of_one_rank) return serve(any_engine{a.model, m.options}, a, m, &all);
  if (m.served_by == manner::engine::with_contiguous_cache)
    return serve(engine<models::any, kv::contiguous>{a.model, m.options}, a, m, &all);
  digests of_first;
  comm::threads::run(2, [&](comm::threads& world) {
    bool const is_first = world.rank() == 0;
    auto mine = serve(engine<models::any, tensor<2>, comm::threads>{world, a.model, m.options}, a, m,
                      is_first ? &all : nullptr);
    if (is_first) of_first = std::move(mine);
  });
  return of_first;
}

std::vector<manner> manners(arguments const& a) {
  index_t const longest = a.prompt + a.new_tokens + 1;
  int const cores = int(std::max(1u, std::thread::hardware_concurrency()));
  engine_options const usual{.longest = longest,
                             .cache_tokens = longest * std::max<index_t>(a.requests, 4),
                             .threads = cores};
  auto const with = [&](auto&& change) {
    engine_options o = usual;
    change(o);
    return o;
  };
  auto const one_thread = with([](auto& o) { o.threads = 1; });
  return {{"alone", with([](auto& o) { o.keeps_prefixes = false; }), 1},
          {"alone, one thread", with([](auto& o) { o.keeps_prefixes = false, o.threads = 1; }), 1},
          {"in pairs", usual, 2},
          {"five at a time", usual, 5},
          {"64 at a time, twice: the second time prefixes are known", usual, 64, 2},
          {"in chunks of 7 tokens", with([](auto& o) { o.token_budget = 7, o.max_sequences = 5; })},
          {"in chunks of 30 tokens, one thread",
           with([](auto& o) { o.token_budget = 30, o.max_sequences = 9, o.threads = 1; })},
          {"in a cache so small that they give way to each other",
           with([&](auto& o) { o.cache_tokens = 2 * longest, o.token_budget = 24, o.max_sequences = 8; })},
          {"with four guessed tokens", usual, 0, 1, 4},
          {"with four guessed tokens, in pairs, one thread", one_thread, 2, 1, 4},
          {"in a contiguous cache", usual, 0, 1, 0, manner::engine::with_contiguous_cache},
          {"by two ranks", one_thread, 0, 1, 0, manner::engine::of_two_ranks},
          {"by two ranks, in chunks, with guessed tokens",
           with([](auto& o) { o.token_budget = 16, o.max_sequences = 7, o.threads = 1; }), 0, 1, 3,
           manner::engine::of_two_ranks}};
}

bool compare(arguments a) {
  index_t rounds = 0;
  for (auto const& m : manners(a)) rounds += m.rounds;
  if (a.rows > 0) a.requests = ceil_div(a.rows, rounds * a.new_tokens);
  std::vector<std::set<std::string>> distinct(std::size_t(a.requests));
  nlohmann::json list = nlohmann::json::array();
  progress all(a.requests * a.new_tokens * rounds);
  for (auto const& m : manners(a)) {
    index_t const before = all.rows();
    digests found;
    try {
      found = serve(a, m, all);
    } catch (argument_error const& e) {
      if (m.served_by != manner::engine::of_two_ranks) throw;
      // Not every matrix can be cut.
      list.push_back({{"manner", m.name}, {"refused", e.what()}});
      if (!a.json) std::printf("%-60s refused: %s\n", m.name.c_str(), e.what());
      continue;
    }
    for (std::size_t r = 0; r < found.size(); ++r) distinct[r].insert(found[r].begin(), found[r].end());
    index_t const rows = all.rows() - before;
    list.push_back({{"manner", m.name}, {"rows", rows}, {"digest_of_first", found[0][0]}});
    if (!a.json)
      std::printf("%-60s %8td rows of logits, first request %.12s\n", m.name.c_str(), rows, found[0][0].c_str());
  }
  std::size_t most = 0;
  for (auto const& d : distinct) most = std::max(most, d.size());
  if (a.json)
    std::printf("%s\n", nlohmann::ordered_json{{"model", a.model},
                                               {"requests", a.requests},
                                               {"rows", all.rows()},
                                               {"seconds", all.seconds()},
                                               {"manners", list},
                                               {"distinct_hashes_per_request", most}}
                            .dump(1)
                            .c_str());
  else
    std::printf("%td requests, %td rows in %.0f s: %zu distinct hashes per request\n", a.requests, all.rows(),
                all.seconds(), most);
  return most == 1;
}

}  // namespace

int main(int argc, char** argv) try {
  arguments a;
  CLI::App app{"Checks that a request gets the same logits, to the bit, in any company."};
  app.add_option("--model", a.model, "a .gguf file, a folder with config.json and safetensors, or a checkpoint")
      ->required();
  auto* const requests =
      app.add_option("--requests", a.requests, "how many requests")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("--rows", a.rows,
                 "as many requests as make so many rows of logits, in all manners of serving them together")
      ->check(CLI::Range(1, 1000000000))
      ->excludes(requests);
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
