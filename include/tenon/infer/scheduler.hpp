// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Which tokens of which sequences run in the next step: continuous batching. Knows pages as numbers, and no model.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <tenon/infer/page_tables.hpp>
#include <tenon/policy/batching.hpp>

namespace tenon::infer {

using request_id = std::int64_t;
using sequence_id = std::int64_t;

struct scheduler_options {
  index_t token_budget = 512;  ///< tokens in a step, at most
  index_t max_sequences = 64;  ///< that hold pages at once; at most token_budget, so that none has to pause
  index_t page_tokens = 16;
  std::vector<page_group> groups;
  index_t swap_pages = 0;  ///< of each group, for preemption::swap
  bool keeps_prefixes = true;
};

struct request {
  std::span<std::int32_t const> prompt;
  index_t max_new_tokens = 16;
  int priority = 0;
  /// Sequences that go on from the prompt: as many samples, or, when they live `together`, never more beams at once.
  index_t branches = 1;
  bool together = false;
  std::uint64_t salt = 0;  ///< texts of different salt share no pages
};

/// What a sequence does in a step: tokens [first, first + count) run, and the last `logits` of them give logits.
struct planned_tokens {
  sequence_id sequence;
  index_t first, count, logits;
  std::span<std::int32_t const> tokens;  ///< [count]; until the sequence's next commit
};
/// First the moves, in their order, then the batch.
struct step_plan {
  std::vector<page_move> moves;
  std::vector<planned_tokens> batch;
};

namespace detail {

/// Things with numbers. A number is used once.
template <class T>
class numbered {
 public:
  std::int64_t insert(T thing) {
    std::size_t place = all.size();
    if (unused.empty()) all.emplace_back();
    else place = unused.back(), unused.pop_back();
    all[place] = {++last << place_bits | std::int64_t(place), std::move(thing)};
    ++count;
    return all[place].number;
  }
  T* find(std::int64_t number) {
    auto const place = std::size_t(number & ((std::int64_t(1) << place_bits) - 1));
    return place < all.size() && all[place].number == number ? &all[place].thing : nullptr;
  }
  void erase(std::int64_t number) {
    auto const place = std::size_t(number & ((std::int64_t(1) << place_bits) - 1));
    all[place] = {};
    unused.push_back(place);
    --count;
  }
  index_t size() const { return count; }

 private:
  static constexpr int place_bits = 24;
  struct entry {
    std::int64_t number = 0;
    T thing;
  };
  std::deque<entry> all;  // what is in it stays where it is
  std::vector<std::size_t> unused;
  std::int64_t last = 0;
  index_t count = 0;
};

}  // namespace detail

/// Plans steps. The loop around it:
///
///     auto const id = s.submit({.prompt = tokens, .max_new_tokens = 100});
///     while (!s.is_idle()) {
///       auto const& step = s.plan();
///       // move pages, run the batch; then, for every entry with logits, at once or after later steps:
///       s.commit(entry.sequence, new_tokens, wants_to_stop);
///     }
///
/// A step. Live sequences are gone through by rank (of the policy; then in the order of their making). Each that runs has
/// one token of the budget set aside, so that a long prompt never delays those that generate; what is left goes to
/// prompts, in chunks, and to drafts. One that waits is admitted when all of its tokens find pages; if it is not,
/// nor is any after it. A sequence that finds no page takes those of the running sequence of highest rank above its own,
/// which then waits; it is never one that was planned before it.
///
/// No request starves. The sequence of lowest rank runs in every step that finds it without an uncommitted token: a
/// request that even an empty cache could not hold was refused, and everybody else's pages and budget are its own if it
/// needs them. It makes at least one token of progress each time and is never preempted, so it ends; then the next one
/// is the lowest, and the policy lets only finitely many go before any.
///
/// A token that was drawn is committed before it has keys and values: a sequence of n tokens has n - 1 in its pages, and
/// computing the last one gives the logits for the next. A preempted one is a longer prompt, nothing else.
/// @error argument_error for a request that can never be served and for calls that do not fit a sequence's state
/// @source Yu et al. 2022, "Orca", OSDI'22; Kwon et al. 2023, arXiv:2309.06180; Agrawal et al. 2024, arXiv:2403.02310
/// @test tests/infer/scheduler_test.cpp
template <BatchingPolicy Order = batching::first_come<>, PreemptionPolicy Preemption = preemption::recompute>
class scheduler {
 public:
  explicit scheduler(scheduler_options o)
      : options(std::move(o)), tables(options.page_tokens, options.groups, Preemption::swaps ? options.swap_pages : 0,
                                      options.keeps_prefixes) {
    require(options.page_tokens > 0 && !options.groups.empty(),
            "there are no pages. Fix: page_tokens, and a group for the layers of every window.");
    if (options.max_sequences <= 0 || options.token_budget < options.max_sequences)
      refuse("a step of " + std::to_string(options.token_budget) + " tokens does not give each of " +
             std::to_string(options.max_sequences) + " sequences one. Fix: a larger token_budget.");
  }

  /// Takes in a request. Its sequence is the first of its branches.
  sequence_id submit(request const& r) {
    require(!r.prompt.empty() && r.max_new_tokens > 0 && r.branches > 0,
            "a request has no prompt, no token to generate or no branch. Fix: at least one of each.");
    if (r.branches > options.max_sequences)
      refuse("a request has " + std::to_string(r.branches) + " branches, and at most " +
             std::to_string(options.max_sequences) + " sequences run. Fix: fewer branches.");
    index_t const tokens = index_t(r.prompt.size()) + r.max_new_tokens - 1;
    for (int g = 0; g < tables.groups(); ++g) {
      index_t const needed = tables.most_pages(g, tokens, r.together ? r.branches : 1);
      if (needed > tables.pool(g).size())
        refuse("a request of " + std::to_string(r.prompt.size()) + " + " + std::to_string(r.max_new_tokens) +
               " tokens needs " + std::to_string(needed) + " pages, and the cache has " +
               std::to_string(tables.pool(g).size()) + ". Fix: a shorter request, or a larger cache.");
    }
    auto const of = requests.insert(
        {.branches = r.branches, .live = 1, .to_fork = r.branches - 1, .together = r.together, .salt = r.salt});
    sequence s;
    s.of = of;
    s.rank = Order::rank(now, r.priority);
    s.most = index_t(r.prompt.size()) + r.max_new_tokens;
    s.tokens.reserve(std::size_t(s.most));
    s.tokens.assign(r.prompt.begin(), r.prompt.end());
    return insert(std::move(s));
  }

  /// The next step. What the last one was to compute is taken as done.
  step_plan const& plan() {
    ++now;
    step.moves.clear();
    step.batch.clear();
    spare = options.token_budget;
    for (auto const id : order) {
      sequence& s = get(id);
      if (!s.is_running) continue;
      publish(s);
      if (s.is_awaiting) continue;
      tables.trim(s.pages);
      --spare;
    }
    bool may_admit = true;
    for (std::size_t i = 0; i < order.size(); ++i) {
      sequence& s = get(order[i]);
      if (s.is_awaiting) continue;
      if (s.is_running || (may_admit = may_admit && admit(s, i))) run(s, i);
    }
    return step;
  }

  /// Appends what was drawn: one token, or the drafts that the model would have drawn too and one more. Returns whether
  /// the sequence goes on; it ends when `stops` is set or it has max_new_tokens.
  bool commit(sequence_id id, std::span<std::int32_t const> drawn, bool stops = false) {
    sequence& s = awaiting(id);
    require(!drawn.empty() && index_t(drawn.size()) <= s.drafts + 1 &&
                std::equal(drawn.begin(), drawn.end() - 1, s.tokens.begin() + s.known()),
            "tokens are committed that were not planned. Fix: the drafts that hold, and one more.");
    index_t const before = s.known(), count = std::min(index_t(drawn.size()), s.most - before);
    s.tokens.resize(std::size_t(before));
    s.tokens.insert(s.tokens.end(), drawn.begin(), drawn.begin() + count);
    s.drafts = 0;
    s.is_awaiting = false;
    if (s.pages.tokens > before + count - 1) tables.truncate(s.pages, before + count - 1);
    if (!stops && s.known() < s.most) return true;
    publish(s);
    drop(id);
    return false;
  }
  /// The sequence is to try these tokens in the next step, or the first few of them. Nothing is changed by what they are
  /// but the number of steps.
  void draft(sequence_id id, std::span<std::int32_t const> tokens) {
    sequence& s = live(id);
    require(!s.is_awaiting, "a sequence gets drafts before its last token. Fix: commit first.");
    set_drafts(s, 0);
    s.drafts = std::min(index_t(tokens.size()), s.most - s.known() - 1);
    s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.begin() + s.drafts);
  }
  /// One more branch with the same text and the same logits. Both wait for a commit.
  sequence_id fork(sequence_id id) {
    sequence& s = awaiting(id);
    request_state& r = owner(s);
    if ((r.together ? r.live == r.branches : r.to_fork == 0) || s.drafts > 0)
      refuse("a request of " + std::to_string(r.branches) +
             " branches forks once more, or from a draft. Fix: more branches, or drop a beam or commit drafts first.");
    ++r.live;
    --r.to_fork;
    sequence copy = s;
    copy.tokens.reserve(std::size_t(s.most));
    copy.pages = tables.fork(s.pages);
    return insert(std::move(copy));
  }
  /// Ends a sequence, in whatever state. Not between a plan and its run.
  void drop(sequence_id id) {
    sequence& s = live(id);
    request_state& r = owner(s);
    tables.release(s.pages);
    if (--r.live == 0) requests.erase(s.of);
    order.erase(std::find(order.begin(), order.end(), id));
    sequences.erase(id);
  }
  /// Ends all branches of the request that this sequence is one of.
  void cancel(sequence_id id) {
    auto const of = live(id).of;
    for (std::size_t i = order.size(); i-- > 0;)
      if (get(order[i]).of == of) drop(order[i]);
  }

  bool is_idle() const { return order.empty(); }
  bool is_live(sequence_id id) { return sequences.find(id) != nullptr; }
  /// Live sequences, those of lowest rank first.
  std::span<sequence_id const> live_sequences() const { return order; }
  enum class status { waiting, running, awaiting, swapped };
  /// `awaiting`: its logits are there and its token is not committed.
  status status_of(sequence_id id) {
    sequence const& s = live(id);
    return s.is_awaiting        ? status::awaiting
           : s.is_running       ? status::running
           : s.pages.is_swapped ? status::swapped
                                : status::waiting;
  }
  request_id request_of(sequence_id id) { return live(id).of; }
  /// The prompt and what was committed since.
  std::span<std::int32_t const> tokens(sequence_id id) { return known_tokens(live(id)); }
  sequence_pages const& pages(sequence_id id) { return live(id).pages; }
  page_tables const& all_pages() const { return tables; }

 private:
  struct request_state {
    index_t branches = 0, live = 0, to_fork = 0;
    bool together = false;
    std::uint64_t salt = 0;
    std::int64_t counted_at = 0;
  };
  struct sequence {
    sequence_id id = 0;
    request_id of = 0;
    std::int64_t rank = 0;
    index_t most = 0;                  ///< tokens
    std::vector<std::int32_t> tokens;  ///< and drafts
    index_t drafts = 0;
    sequence_pages pages;
    bool is_running = false;   ///< holds pages
    bool is_awaiting = false;  ///< has logits
    index_t known() const { return index_t(tokens.size()) - drafts; }
  };

  [[noreturn]] static void refuse(std::string const& what) { throw argument_error("tenon::infer::scheduler: " + what); }
  static void require(bool fits, char const* what) {
    if (!fits) refuse(what);
  }
  sequence& get(sequence_id id) { return *sequences.find(id); }
  sequence& live(sequence_id id) {
    sequence* const s = sequences.find(id);
    if (!s) refuse("there is no sequence " + std::to_string(id) + " any more. Fix: is_live.");
    return *s;
  }
  sequence& awaiting(sequence_id id) {
    sequence& s = live(id);
    if (!s.is_awaiting)
      refuse("sequence " + std::to_string(id) + " has no logits. Fix: wait for the step that gives them.");
    return s;
  }
  request_state& owner(sequence const& s) { return *requests.find(s.of); }
  sequence_id insert(sequence s) {
    auto const rank = s.rank;
    auto const id = sequences.insert(std::move(s));
    get(id).id = id;
    order.insert(std::upper_bound(order.begin(), order.end(), rank,
                                  [&](std::int64_t r, sequence_id other) { return r < get(other).rank; }),
                 id);
    return id;
  }
  static void set_drafts(sequence& s, index_t count) {
    s.tokens.resize(std::size_t(s.known() + count));
    s.drafts = count;
  }

  std::span<std::int32_t const> known_tokens(sequence const& s) const {
    return std::span(s.tokens).first(std::size_t(s.known()));
  }
  void publish(sequence& s) {
    auto const stored = std::size_t(std::min(s.pages.tokens, s.known()));
    tables.publish(s.pages, owner(s).salt, std::span(s.tokens).first(stored));
  }

  /// Does s find a place beside all that run and all that their requests may still fork?
  bool finds_place(sequence const& s) {
    ++place_counts;
    index_t taken = places_of(owner(s));
    for (auto const id : order)
      if (sequence const& other = get(id); other.is_running) taken += places_of(owner(other));
    return taken <= options.max_sequences;
  }
  /// Places that one more sequence of the request takes in this count. Beams may end and fork at any time.
  index_t places_of(request_state& r) const {
    bool const is_first = std::exchange(r.counted_at, place_counts) != place_counts;
    if (r.together) return is_first ? r.branches : 0;
    return 1 + (is_first ? r.to_fork : 0);
  }
  /// Pages of group g that must be available before s is admitted: for all of its tokens, or the first where few suffice.
  index_t wanted_pages(sequence const& s, int g) const {
    return tables.lacking(s.pages, g, tables.window(g) == 0 ? s.known() - s.pages.tokens : 1);
  }
  bool finds_pages(sequence const& s, std::size_t i, bool with_those_of_others) {
    for (int g = 0; g < tables.groups(); ++g) {
      index_t found = tables.pool(g).available();
      for (std::size_t k = i + 1; k < order.size() && with_those_of_others; ++k)
        if (sequence const& other = get(order[k]); other.is_running) found += tables.held(other.pages, g);
      if (found < wanted_pages(s, g)) return false;
    }
    return true;
  }
  /// Lets sequence s, order[i], run if there is room, or if those of higher rank can make it.
  bool admit(sequence& s, std::size_t i) {
    if (s.pages.groups.empty()) tables.begin(s.pages, s.most, owner(s).salt, known_tokens(s));
    bool fits = finds_pages(s, i, true);
    while (fits && !(spare > 0 && finds_pages(s, i, false) && finds_place(s))) fits = preempt_after(i);
    if (!fits) {
      if (!s.pages.is_swapped) tables.release(s.pages);
      return false;
    }
    if (s.pages.is_swapped) tables.swap_in(s.pages, step.moves);
    s.is_running = true;
    --spare;
    return true;
  }
  /// Plans tokens of sequence s, order[i], one of which is set aside.
  void run(sequence& s, std::size_t i) {
    index_t const missing = s.known() - s.pages.tokens, wanted = std::min(missing + s.drafts, 1 + spare);
    index_t count = 0;
    while ((count = tables.extendable(s.pages, wanted)) == 0)
      if (!preempt_after(i)) return preempt(s);
    index_t const first = s.pages.tokens, tried = std::max<index_t>(0, count - missing);
    set_drafts(s, tried);
    tables.extend(s.pages, count, step.moves);
    spare -= count - 1;
    s.is_awaiting = count >= missing;
    step.batch.push_back({s.id, first, count, s.is_awaiting ? tried + 1 : 0,
                          std::span(s.tokens).subspan(std::size_t(first), std::size_t(count))});
  }
  /// The running sequence of highest rank after order[i] must wait. False when there is none.
  bool preempt_after(std::size_t i) {
    for (std::size_t k = order.size(); --k > i;)
      if (sequence& s = get(order[k]); s.is_running) return preempt(s), true;
    return false;
  }
  void preempt(sequence& s) {
    spare += !s.is_awaiting;
    s.is_running = false;
    if constexpr (Preemption::swaps)
      if (tables.swap_out(s.pages, step.moves)) return;
    tables.release(s.pages);
  }

  scheduler_options options;
  page_tables tables;
  detail::numbered<request_state> requests;
  detail::numbered<sequence> sequences;
  std::vector<sequence_id> order;  ///< by rank
  step_plan step;
  index_t spare = 0;  ///< tokens of the budget that are not set aside
  std::int64_t now = 0, place_counts = 0;
};

}  // namespace tenon::infer
