// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <tenon/infer/scheduler.hpp>

namespace {

using namespace tenon;
using namespace tenon::infer;

/// doctest's own assertions are too slow for as many as these.
void must(bool holds, int line = __builtin_LINE()) {
  if (!holds) throw std::logic_error("line " + std::to_string(line));
}

/// A request and what may happen to it.
struct scenario_request {
  std::vector<std::int32_t> prompt;
  index_t max_new_tokens = 1;
  int priority = 0;
  index_t branches = 1;
  bool together = false;
};
struct scenario {
  scheduler_options options;
  std::vector<scenario_request> requests;
  index_t drafts = 0;
  int cancels = 1;
};

/// What the cache holds, as a model would have written it: the text up to and with each token.
using text_hash = std::uint64_t;
struct simulated_cache {
  std::vector<std::vector<text_hash>> groups, swapped;
  index_t page_tokens = 1;

  text_hash* at(std::vector<std::vector<text_hash>>& space, int g, page_id p) {
    auto& s = space[std::size_t(g)];
    auto const end = std::size_t((p + 1) * page_tokens);
    if (s.size() < end) s.resize(end);
    return &s[end - std::size_t(page_tokens)];
  }
  void run(page_move const& m) {
    bool const out = m.what == page_move::kind::swap_out, in = m.what == page_move::kind::swap_in;
    at(out ? swapped : groups, m.group, m.to);
    text_hash const* const from = at(in ? swapped : groups, m.group, m.from);
    std::copy_n(from, page_tokens, at(out ? swapped : groups, m.group, m.to));
  }
};
text_hash extended(text_hash h, std::int32_t token) { return (h ^ text_hash(token + 2)) * 0x100000001b3u + 1; }

/// How often what the tests are about has happened.
struct events {
  index_t states = 0, steps = 0, preempted = 0, copies = 0, swaps = 0, shared_tokens = 0, chunks = 0,
          drafts_accepted = 0;
};
events seen_events;

/// A scheduler, the cache that it rules, and the requests that are still to come. A value: worlds branch by copies.
template <class Scheduler>
struct world {
  scenario const* play;
  Scheduler s;
  simulated_cache cache;
  std::size_t next = 0;
  int cancels;
  std::map<request_id, std::pair<std::size_t, index_t>> plays;  ///< request in the scenario, forks so far

  explicit world(scenario const& p) : play(&p), s(p.options), cancels(p.cancels) {
    cache.page_tokens = p.options.page_tokens;
    cache.groups.resize(p.options.groups.size());
    cache.swapped.resize(p.options.groups.size());
  }
  scenario_request const& request_of(sequence_id id) { return play->requests[plays.at(s.request_of(id)).first]; }

  void submit() {
    auto const& r = play->requests[next];
    auto const id = s.submit({r.prompt, r.max_new_tokens, r.priority, r.branches, r.together});
    plays[s.request_of(id)] = {next++, 1};
  }
  /// Every page has as many references as sequences that have it in their tables, and is findable if it is kept.
  void check_pages() {
    auto const& tables = s.all_pages();
    for (int g = 0; g < tables.groups(); ++g) {
      std::vector<index_t> used(std::size_t(tables.pool(g).size())), swapped(std::size_t(tables.swap_pool(g).size()));
      for (auto const id : s.live_sequences()) {
        auto const& pages = s.pages(id);
        if (pages.groups.empty()) continue;
        for (page_id const p : pages.groups[std::size_t(g)])
          if (p != no_page) ++(pages.is_swapped ? swapped : used)[std::size_t(p)];
      }
      auto const check = [&](page_pool pool, std::vector<index_t> const& references) {
        index_t unused = 0;
        for (page_id p = 0; p < page_id(references.size()); ++p) {
          must(pool.references(p) == references[std::size_t(p)]);
          unused += references[std::size_t(p)] == 0;
        }
        must(pool.available() == unused);
        std::set<page_id> taken;
        for (page_id p; (p = pool.take([](page_id) {})) != no_page;) must(taken.insert(p).second);
        must(index_t(taken.size()) == unused);
      };
      check(tables.pool(g), used);
      check(tables.swap_pool(g), swapped);
    }
    std::vector<index_t> kept(std::size_t(tables.groups()));
    for_known_texts([&](index_t, std::int32_t node) {
      for (int g = 0; g < tables.groups(); ++g)
        if (page_id const p = tables.known_prefixes().page(node, g); p != no_page) {
          must(tables.pool(g).is_kept(p));
          ++kept[std::size_t(g)];
        }
    });
    for (int g = 0; g < tables.groups(); ++g)
      for (page_id p = 0; p < page_id(tables.pool(g).size()); ++p) kept[std::size_t(g)] -= tables.pool(g).is_kept(p);
    for (auto const difference : kept) must(difference == 0);
    if (s.is_idle()) must(nodes_with_pages() - 1 == tables.known_prefixes().size());
  }
  /// Of the tree under `node`: how many lead to a page, itself included.
  index_t nodes_with_pages(std::int32_t node = -1) const {
    auto const& known = s.all_pages().known_prefixes();
    index_t count = 0;
    for_children(node, [&](int, std::int32_t child) { count += nodes_with_pages(child); });
    bool has_page = node == known.root;
    for (int g = 0; g < s.all_pages().groups() && !has_page; ++g) has_page = known.page(node, g) != no_page;
    return count + (count > 0 || has_page);
  }
  /// Tokens are 0 and 1: all texts can be tried.
  template <class Function>
  void for_children(std::int32_t node, Function&& function) const {
    auto const& known = s.all_pages().known_prefixes();
    if (known.size() == 0) return;
    index_t const n = play->options.page_tokens;
    std::vector<std::int32_t> text(static_cast<std::size_t>(n));
    for (int bits = 0; bits < 1 << n; ++bits) {
      for (index_t i = 0; i < n; ++i) text[std::size_t(i)] = (bits >> i) & 1;
      if (auto const child = known.find(0, node, text); child != known.root) function(bits, child);
    }
  }
  template <class Function>
  void for_known_texts(Function&& function, index_t depth = 0, std::int32_t node = -1) const {
    for_children(node, [&](int bits, std::int32_t child) {
      function(depth * 16 + bits, child);
      for_known_texts(function, depth + 1, child);
    });
  }

  /// Plans a step, checks it and runs it in the simulated cache.
  std::vector<planned_tokens> run_step() {
    auto const order = std::vector<sequence_id>(s.live_sequences().begin(), s.live_sequences().end());
    bool const first_awaits = !order.empty() && s.status_of(order[0]) == Scheduler::status::awaiting;
    std::map<sequence_id, index_t> stored;
    std::vector<sequence_id> waited;
    for (auto const id : order) {
      stored[id] = s.pages(id).tokens;
      auto const status = s.status_of(id);
      if (status == Scheduler::status::waiting || status == Scheduler::status::swapped) waited.push_back(id);
    }
    auto const& step = s.plan();
    auto const batch = step.batch;
    check_pages();
    for (auto const& m : step.moves) {
      cache.run(m);
      ++(m.what == page_move::kind::copy ? seen_events.copies : seen_events.swaps);
    }
    ++seen_events.steps;
    for (auto const id : order) seen_events.preempted += s.pages(id).is_swapped || s.pages(id).tokens < stored[id];
    index_t tokens = 0, running = 0;
    for (auto const id : order) running += !s.pages(id).is_swapped && !s.pages(id).groups.empty();
    must(running <= play->options.max_sequences);
    std::set<std::pair<int, std::pair<page_id, index_t>>> written;
    for (auto const& e : batch) {
      tokens += e.count;
      seen_events.chunks += e.logits == 0;
      if (stored[e.sequence] == 0) seen_events.shared_tokens += e.first;
      must(e.count >= 1);
      must(e.first + e.count == s.pages(e.sequence).tokens);
      must(index_t(e.tokens.size()) == e.count);
      for (int g = 0; g < s.all_pages().groups(); ++g) {
        auto const& table = s.pages(e.sequence).groups[std::size_t(g)];
        auto hash = hash_of(e.sequence, e.first);
        for (index_t i = e.first; i < e.first + e.count; ++i) {
          hash = extended(hash, e.tokens[std::size_t(i - e.first)]);
          page_id const p = table[std::size_t(i / cache.page_tokens)];
          must(s.all_pages().pool(g).is_writable(p));
          must(written.insert({g, {p, i % cache.page_tokens}}).second);
          cache.at(cache.groups, g, p)[i % cache.page_tokens] = hash;
        }
      }
    }
    must(tokens <= play->options.token_budget);
    // Nobody is admitted past another one.
    auto const is_planned = [&](sequence_id id) {
      return std::any_of(batch.begin(), batch.end(), [&](auto const& e) { return e.sequence == id; });
    };
    must(std::is_partitioned(waited.begin(), waited.end(), is_planned));
    for (auto const& e : batch) check_reads(e);
    // Who is first gets at least one token. This is what keeps everybody from starving.
    if (!order.empty() && !first_awaits) {
      must(!batch.empty());
      must(batch[0].sequence == order[0]);
    }
    return batch;
  }
  text_hash hash_of(sequence_id id, index_t count) {
    text_hash h = 0;
    for (index_t i = 0; i < count; ++i) h = extended(h, s.tokens(id)[std::size_t(i)]);
    return h;
  }
  /// All that the planned tokens see is there.
  void check_reads(planned_tokens const& e) {
    std::vector<std::int32_t> text(s.tokens(e.sequence).begin(), s.tokens(e.sequence).end());
    text.resize(std::size_t(e.first));
    text.insert(text.end(), e.tokens.begin(), e.tokens.end());
    for (int g = 0; g < s.all_pages().groups(); ++g) {
      index_t const w = s.all_pages().window(g), from = w == 0 ? 0 : std::max<index_t>(0, e.first - w + 1);
      text_hash h = 0;
      for (index_t i = 0; i < index_t(text.size()); ++i) {
        h = extended(h, text[std::size_t(i)]);
        if (i < from) continue;
        page_id const p = s.pages(e.sequence).groups[std::size_t(g)][std::size_t(i / cache.page_tokens)];
        must(p != no_page);
        must(cache.at(cache.groups, g, p)[i % cache.page_tokens] == h);
      }
    }
  }
  std::int32_t likely_token(sequence_id id, index_t ahead) {
    return std::int32_t((s.tokens(id).size() + std::size_t(ahead)) / 2 % 2);
  }
  /// Beams of a request go on when all of them have logits. What happens then is one of `beam_choices`: the request
  /// ends, or each goes on, or one ends and another one becomes two. Returns whether there were any.
  static constexpr int beam_choices = 4;
  bool commit_beams(int choice) {
    for (auto const& [request, state] : std::map(plays)) {
      auto const& r = play->requests[state.first];
      std::vector<sequence_id> beams;
      bool all_await = r.together;
      for (auto const id : s.live_sequences())
        if (s.request_of(id) == request) {
          beams.push_back(id);
          all_await = all_await && s.status_of(id) == Scheduler::status::awaiting;
        }
      if (!all_await || beams.empty()) continue;
      if (choice == 0) s.cancel(beams[0]);
      else {
        if (choice >= 2 && beams.size() > 1) {
          auto const ends = beams.begin() + (choice - 2);
          s.drop(*ends);
          beams.erase(ends);
        }
        while (index_t(beams.size()) < r.branches) beams.push_back(s.fork(beams[0]));
        for (std::size_t i = 0; i < beams.size(); ++i) {
          std::int32_t const token[] = {std::int32_t(i % 2)};
          s.commit(beams[i], token);
        }
      }
      commit_beams(choice);
      return true;
    }
    return false;
  }
  /// Commits a token, after forks where the request has branches left to make.
  void commit(planned_tokens const& e, index_t accepted, bool stops) {
    auto& forks = plays.at(s.request_of(e.sequence)).second;
    while (e.logits == 1 && forks < request_of(e.sequence).branches) {
      auto const branch = s.fork(e.sequence);
      std::int32_t const token[] = {std::int32_t(forks++ % 2)};
      s.commit(branch, token);
    }
    std::vector<std::int32_t> drawn;
    for (index_t i = 0; i < accepted; ++i) drawn.push_back(e.tokens[std::size_t(e.count - e.logits + 1 + i)]);
    // What comes instead of a draft is another token.
    seen_events.drafts_accepted += accepted;
    drawn.push_back(accepted + 1 < e.logits ? 1 - e.tokens[std::size_t(e.count - e.logits + 1 + accepted)]
                                            : likely_token(e.sequence, accepted));
    s.commit(e.sequence, drawn, stops);
  }
  void make_drafts() {
    for (auto const id : std::vector<sequence_id>(s.live_sequences().begin(), s.live_sequences().end())) {
      std::vector<std::int32_t> tokens;
      for (index_t i = 0; i < play->drafts; ++i) tokens.push_back(likely_token(id, i));
      if (s.status_of(id) != Scheduler::status::awaiting) s.draft(id, tokens);
    }
  }
  /// No more events: everything ends within as many steps as there are tokens, since the first one always advances.
  void check_end() {
    index_t most = 0, steps = 0;
    for (auto const id : s.live_sequences())
      most += (index_t(request_of(id).prompt.size()) + request_of(id).max_new_tokens) * request_of(id).branches;
    while (!s.is_idle()) {
      must(++steps <= most);
      for (auto const& e : run_step())
        if (e.logits > 0 && !request_of(e.sequence).together) commit(e, 0, false);
      commit_beams(1);
    }
    check_pages();
    for (int g = 0; g < s.all_pages().groups(); ++g) {
      must(s.all_pages().pool(g).available() == s.all_pages().pool(g).size());
      must(s.all_pages().swap_pool(g).available() == s.all_pages().swap_pool(g).size());
    }
  }

  /// Equal for states that differ in nothing but page numbers and in how long ago things happened.
  std::string signature() {
    std::string out;
    auto const put = [&](std::int64_t x) { out.push_back(char(x)); };
    auto const& tables = s.all_pages();
    put(std::int64_t(next)), put(cancels);
    std::vector<std::map<page_id, int>> names(std::size_t(2 * tables.groups()));
    auto const name = [&](int space, page_id p) {
      return p == no_page
                 ? -1
                 : names[std::size_t(space)].try_emplace(p, int(names[std::size_t(space)].size())).first->second;
    };
    std::map<request_id, int> request_names;
    for (auto const id : s.live_sequences()) {
      auto const request = s.request_of(id);
      put(request_names.try_emplace(request, int(request_names.size())).first->second);
      put(std::int64_t(plays.at(request).first)), put(plays.at(request).second), put(int(s.status_of(id)));
      put(std::int64_t(s.tokens(id).size()));
      for (auto const t : s.tokens(id)) put(t);
      auto const& pages = s.pages(id);
      put(pages.tokens), put(pages.known_pages), put(std::int64_t(pages.groups.size()));
      for (std::size_t g = 0; g < pages.groups.size(); ++g) {
        put(std::int64_t(pages.groups[g].size()));
        for (page_id const p : pages.groups[g]) put(name(int(g) + (pages.is_swapped ? tables.groups() : 0), p));
      }
    }
    for_known_texts([&](index_t text, std::int32_t node) {
      put(text);
      for (int g = 0; g < tables.groups(); ++g) put(name(g, tables.known_prefixes().page(node, g)));
    });
    for (int g = 0; g < tables.groups(); ++g) {
      put(-2);
      auto pool = tables.pool(g);
      for (page_id p; (p = pool.take([](page_id) {})) != no_page;) put(name(g, p));
    }
    return out;
  }
};

/// Goes through everything that can happen: requests come at any step, are cancelled at any step, stop at any token, any
/// number of drafts holds.
template <class Scheduler>
class explorer {
 public:
  void explore(world<Scheduler> w) {
    if (!seen.insert(w.signature()).second) return;
    ++seen_events.states;
    w.check_pages();
    world<Scheduler>(w).check_end();
    if (w.next < w.play->requests.size()) {
      auto with_request = w;
      with_request.submit();
      explore(with_request);
    }
    if (w.cancels > 0)
      for (auto const id : w.s.live_sequences()) {
        auto without = w;
        without.s.cancel(id);
        --without.cancels;
        explore(without);
      }
    if (w.s.is_idle()) return;
    if (w.play->drafts > 0) w.make_drafts();
    auto const batch = w.run_step();
    commit(w, batch, 0);
  }

 private:
  void commit(world<Scheduler> const& w, std::vector<planned_tokens> const& batch, std::size_t i) {
    if (i == batch.size()) {
      for (int choice = 0; choice < world<Scheduler>::beam_choices; ++choice) {
        auto after = w;
        bool const some = after.commit_beams(choice);
        explore(after);
        if (!some) return;
      }
      return;
    }
    auto const& e = batch[i];
    if (e.logits == 0 || world<Scheduler>(w).request_of(e.sequence).together) return commit(w, batch, i + 1);
    for (index_t accepted = 0; accepted < e.logits; ++accepted)
      for (bool const stops : {false, true}) {
        auto after = w;
        after.commit(e, accepted, stops);
        commit(after, batch, i + 1);
      }
  }
  std::set<std::string> seen;
};

template <class Scheduler = scheduler<batching::first_come<2>>>
void explore(scenario const& play) {
  explorer<Scheduler>().explore(world<Scheduler>(play));
}
using swapping = scheduler<batching::first_come<2>, preemption::swap>;

scheduler_options tiny(index_t pages, index_t page_tokens, index_t budget, index_t sequences, bool prefixes) {
  return {.token_budget = budget,
          .max_sequences = sequences,
          .page_tokens = page_tokens,
          .groups = {{pages, 0}},
          .swap_pages = 2,
          .keeps_prefixes = prefixes};
}
void report(std::string const& name) {
  auto const& e = seen_events;
  MESSAGE(name, ": ", e.states, " states, ", e.steps, " steps, ", e.preempted, " preemptions, ", e.copies, " copies, ",
          e.swaps, " pages swapped, ", e.shared_tokens, " tokens of prefixes shared, ", e.chunks, " chunks, ",
          e.drafts_accepted, " drafts accepted");
}
/// Requests of every kind: prompts that begin alike and prompts that do not, one token and more, urgent or not.
std::vector<scenario_request> kinds(std::vector<index_t> const& branches) {
  std::vector<scenario_request> all;
  for (std::vector<std::int32_t> const& prompt : {std::vector<std::int32_t>{0}, {1, 0}, {0, 0, 1}})
    for (index_t const fresh : {1, 3})
      for (int const priority : {0, 1})
        for (index_t const b : branches) all.push_back({prompt, fresh, priority, b});
  return all;
}

}  // namespace

// A sanitized build takes twenty times as long: it leaves out the largest explorations.
#if defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    define TENON_TEST_IS_SLOW true
#  endif
#endif
#if !defined(TENON_TEST_IS_SLOW)
#  define TENON_TEST_IS_SLOW false
#endif

TEST_SUITE("scheduler") {
  TEST_CASE("everything that can happen to two requests of every kind" * doctest::skip(TENON_TEST_IS_SLOW)) {
    seen_events = {};
    auto const all = kinds({1, 2});
    for (auto const& a : all)
      for (auto const& b : all)
        for (bool const prefixes : {false, true})
          for (index_t const page_tokens : {1, 2}) {
            scenario const play{tiny(page_tokens == 1 ? 5 : 3, page_tokens, 3, page_tokens + 1, prefixes), {a, b}};
            explore(play);
            if (!prefixes) explore<swapping>(play);
          }
    report("two requests");
    CHECK(seen_events.preempted > 1000);
    CHECK(seen_events.copies > 1000);
    CHECK(seen_events.swaps > 1000);
    CHECK(seen_events.shared_tokens > 1000);
  }

  TEST_CASE("everything that can happen to three and four requests" * doctest::skip(TENON_TEST_IS_SLOW)) {
    seen_events = {};
    auto const all = kinds({1});
    for (auto const& a : all)
      for (auto const& b : all)
        for (auto const& c : all) {
          if (a.max_new_tokens + b.max_new_tokens + c.max_new_tokens < 5) continue;
          scenario const play{tiny(4, 2, 4, 3, true), {a, b, c}};
          explore(play);
          if (b.priority != c.priority) explore<swapping>(play);
        }
    explore({tiny(6, 1, 4, 4, true), {all[2], all[5], all[10], all[7]}});
    explore<swapping>({tiny(5, 1, 3, 3, false), {all[0], all[9], all[6], all[3]}});
    report("three and four requests");
  }

  TEST_CASE("everything that can happen with drafts") {
    seen_events = {};
    auto const all = kinds({1});
    for (auto a : all)
      for (auto b : all) {
        if (a.max_new_tokens == 1) continue;
        a.max_new_tokens = 4;
        scenario play{tiny(4, 2, 4, 2, true), {a, b}, 2};
        explore(play);
        explore<swapping>(play);
        play.options.groups = {{3, 0}, {4, 2}};
        play.options.page_tokens = 2;
        explore(play);
      }
    report("drafts");
    CHECK(seen_events.drafts_accepted > 1000);
  }

  TEST_CASE("everything that can happen to layers with windows" * doctest::skip(TENON_TEST_IS_SLOW)) {
    seen_events = {};
    auto const all = kinds({1, 2});
    for (auto const& a : all)
      for (auto const& b : all)
        for (std::vector<page_group> const& groups :
             {std::vector<page_group>{{5, 0}, {3, 2}}, {{4, 3}}, {{2, 1}, {6, 0}}}) {
          scenario play{tiny(0, 1, 3, 2, true), {a, b}};
          play.options.groups = groups;
          explore(play);
          if (b.priority == 1) explore<swapping>(play);
        }
    report("windows");
    CHECK(seen_events.shared_tokens > 1000);
  }

  TEST_CASE("everything that can happen to beams") {
    seen_events = {};
    auto const all = kinds({1});
    for (auto beams : all)
      for (auto const& other : all)
        for (bool const first : {false, true}) {
          beams.branches = 2, beams.together = true;
          scenario const play{tiny(6, 2, 4, 3, true), {first ? beams : other, first ? other : beams}};
          explore(play);
          explore<swapping>(play);
        }
    report("beams");
    CHECK(seen_events.copies > 100);
  }

  TEST_CASE("long random runs of larger numbers" * doctest::skip(TENON_TEST_IS_SLOW)) {
    seen_events = {};
    auto const run = []<class Scheduler>(Scheduler const*, unsigned seed) {
      std::mt19937 random(seed);
      auto const below = [&](index_t n) { return index_t(random() % unsigned(n)); };
      scenario play{{.token_budget = 8 + below(20),
                     .max_sequences = 4 + below(5),
                     .page_tokens = 1 + below(4),
                     .groups = {{60 + below(60), 0}},
                     .swap_pages = 20,
                     .keeps_prefixes = below(4) > 0},
                    {},
                    below(3),
                    1 << 20};
      if (below(2) == 0) play.options.groups.push_back({50 + below(50), 1 + below(9)});
      for (int i = 0; i < 150; ++i) {
        std::vector<std::int32_t> prompt(std::size_t(1 + below(below(4) == 0 ? 30 : 8)));
        for (auto& t : prompt) t = std::int32_t(below(8) == 0);
        index_t const branches = 1 + below(3);
        play.requests.push_back(
            {prompt, 1 + below(12), int(below(3)), branches, play.drafts == 0 && prompt.size() < 9 && below(3) == 0});
      }
      world<Scheduler> w(play);
      std::vector<planned_tokens> late;
      while (w.next < play.requests.size() || !w.s.is_idle()) {
        while (w.next < play.requests.size() && below(3) == 0) w.submit();
        if (below(30) == 0 && !w.s.is_idle())
          w.s.cancel(w.s.live_sequences()[std::size_t(below(index_t(w.s.live_sequences().size())))]);
        if (play.drafts > 0) w.make_drafts();
        for (auto const& e : w.run_step())
          if (e.logits > 0 && !w.request_of(e.sequence).together) late.push_back(e);
        for (auto const& e : std::exchange(late, {}))
          if (!w.s.is_live(e.sequence)) continue;
          else if (below(8) == 0) late.push_back(e);  // its token is not committed before the next step
          else w.commit(e, below(e.logits), below(20) == 0);
        if (below(3) > 0) w.commit_beams(below(20) == 0 ? 0 : 1 + int(below(3)));
        w.check_pages();
      }
      w.check_end();
    };
    for (unsigned seed = 0; seed < 40; ++seed) {
      run(static_cast<scheduler<batching::first_come<5>>*>(nullptr), seed);
      run(static_cast<scheduler<batching::first_come<5>, preemption::swap>*>(nullptr), seed);
    }
    report("random runs");
    CHECK(seen_events.preempted > 1000);
    CHECK(seen_events.copies > 1000);
    CHECK(seen_events.swaps > 1000);
    CHECK(seen_events.shared_tokens > 1000);
    CHECK(seen_events.chunks > 1000);
  }

  TEST_CASE("urgent requests without end do not starve one that is not") {
    scheduler<batching::first_come<10>> s(tiny(4, 1, 2, 2, false));
    std::vector<std::int32_t> const prompt{0, 0};
    auto const patient = s.submit({.prompt = prompt, .max_new_tokens = 3});
    index_t steps = 0;
    for (; s.is_live(patient); ++steps) {
      REQUIRE(steps < 100);
      s.submit({.prompt = prompt, .max_new_tokens = 3, .priority = 1});
      for (auto const& e : std::vector<planned_tokens>(s.plan().batch))
        if (e.logits > 0) s.commit(e.sequence, std::array{1});
    }
    CHECK(steps > 10);  // the urgent ones of the first ten steps go before it
    CHECK(s.live_sequences().size() > 5);
  }

  TEST_CASE("what cannot be served is refused, and the others go on") {
    scheduler<> s(tiny(4, 2, 4, 3, true));
    std::vector<std::int32_t> const prompt(6);
    auto const fits = s.submit({.prompt = prompt, .max_new_tokens = 3});
    CHECK_THROWS_WITH_AS(s.submit({.prompt = prompt, .max_new_tokens = 4}),
                         doctest::Contains("6 + 4 tokens needs 5 pages, and the cache has 4"), argument_error);
    CHECK_THROWS_AS(s.submit({.prompt = prompt, .max_new_tokens = 1, .branches = 2, .together = true}), argument_error);
    CHECK_THROWS_WITH_AS(s.submit({.prompt = prompt, .max_new_tokens = 1, .branches = 4}),
                         doctest::Contains("4 branches"), argument_error);
    CHECK_THROWS_AS(s.submit({}), argument_error);
    CHECK_THROWS_AS(s.submit({.prompt = prompt, .max_new_tokens = 0}), argument_error);
    CHECK_THROWS_AS(s.commit(fits, std::array{1}), argument_error);
    CHECK_THROWS_AS(s.fork(fits), argument_error);
    CHECK(s.plan().batch[0].logits == 0);
    CHECK(s.plan().batch[0].logits == 1);
    CHECK(s.plan().batch.empty());  // until its token is committed
    CHECK(s.status_of(fits) == scheduler<>::status::awaiting);
    CHECK_THROWS_AS(s.draft(fits, std::array{1}), argument_error);
    CHECK_THROWS_AS(s.commit(fits, std::array{1, 1}), argument_error);
    CHECK_THROWS_AS(s.commit(fits, {}), argument_error);
    CHECK_THROWS_AS(s.fork(fits), argument_error);  // one branch
    CHECK(s.commit(fits, std::array{1}));
    s.draft(fits, std::array{1, 1, 1});
    CHECK(s.plan().batch[0].count == 2);  // one draft: two tokens are left to generate
    CHECK_THROWS_AS(s.commit(fits, std::array{0, 0}), argument_error);
    CHECK_FALSE(s.commit(fits, std::array{1, 0}));
    CHECK(s.is_idle());
    CHECK_THROWS_WITH_AS(s.tokens(fits), doctest::Contains("no sequence"), argument_error);
    CHECK_THROWS_AS(scheduler<>(tiny(4, 2, 2, 3, true)), argument_error);
    CHECK_THROWS_AS(scheduler<>(scheduler_options{}), argument_error);
  }
}
