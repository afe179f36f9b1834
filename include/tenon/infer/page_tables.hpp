// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Which pages of a cache hold which tokens of which sequence.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <tenon/infer/prefix_cache.hpp>

namespace tenon::infer {

/// The layers that see equally far back have their pages in common.
struct page_group {
  index_t pages = 0;
  index_t window = 0;  ///< a token sees itself and the window - 1 before it; 0: all
};

/// Where the first `tokens` tokens of a sequence are: the pages of each group, in order; no_page for those that the
/// window has left behind. While it is swapped out, places in the swap space instead. Made, changed and ended by
/// `page_tables` only.
struct sequence_pages {
  std::vector<std::vector<page_id>> groups;
  index_t tokens = 0;
  bool is_swapped = false;
  std::int32_t node = -1;   ///< of the prefix cache: the last one that holds this sequence's text
  index_t known_pages = 0;  ///< pages that the prefix cache knows
};

/// Bytes to be moved before a step runs, in the order of the list.
struct page_move {
  enum class kind { copy, swap_out, swap_in } what;
  int group;
  page_id from, to;  ///< a place in the group's swap space on one side of a swap
};

/// The pages of all sequences of a model. Sequences share a page as long as it is the same text for both: after a fork,
/// or where they begin as an earlier one did; whoever writes into a shared page gets a copy first.
/// @test tests/infer/scheduler_test.cpp
class page_tables {
 public:
  /// @param swap_pages places of each group's swap space   @param keeps_prefixes pages that nobody uses stay findable
  page_tables(index_t page_tokens_, std::span<page_group const> groups_, index_t swap_pages, bool keeps_prefixes_)
      : page_tokens(page_tokens_), keeps_prefixes(keeps_prefixes_), sizes(groups_.begin(), groups_.end()),
        prefixes(page_tokens_, int(groups_.size()), total_pages(groups_)), run(groups_.size()) {
    for (auto const& g : groups_) {
      pools.emplace_back(g.pages);
      swap_pools.emplace_back(swap_pages);
      nodes.emplace_back(std::size_t(g.pages));
    }
  }

  int groups() const { return int(pools.size()); }
  page_pool const& pool(int group) const { return pools[std::size_t(group)]; }
  page_pool const& swap_pool(int group) const { return swap_pools[std::size_t(group)]; }
  index_t window(int group) const { return sizes[std::size_t(group)].window; }
  index_t tokens_per_page() const { return page_tokens; }
  prefix_cache<> const& known_prefixes() const { return prefixes; }

  /// Pages of the group that `count` sequences of `tokens` tokens need at most to go on, whatever they share.
  index_t most_pages(int group, index_t tokens, index_t count) const {
    index_t const all = ceil_div(tokens, page_tokens), w = window(group);
    return count * (w == 0 ? all : std::min(all, (w + page_tokens - 2) / page_tokens + 1));
  }
  /// Pages of the group that the sequence needs besides its own to hold `more` tokens more.
  index_t lacking(sequence_pages const& s, int group, index_t more) const {
    auto const& table = table_of(s, group);
    index_t const added = std::max<index_t>(0, ceil_div(s.tokens + more, page_tokens) - index_t(table.size()));
    return added + (s.is_swapped ? held(s, group) : index_t(needs_copy(s, group)));
  }
  /// Pages that the sequence uses, shared ones included.
  index_t held(sequence_pages const& s, int group) const {
    auto const& table = table_of(s, group);
    return index_t(table.size()) - std::count(table.begin(), table.end(), no_page);
  }
  /// By how many tokens, `wanted` at most, the sequence can be extended now.
  index_t extendable(sequence_pages const& s, index_t wanted) const {
    for (int g = 0; g < groups() && wanted > 0; ++g) {
      index_t const room = pool(g).available() - needs_copy(s, g);
      if (room < 0) return 0;
      wanted = std::min(wanted, (index_t(table_of(s, g).size()) + room) * page_tokens - s.tokens);
    }
    return wanted;
  }

  /// Takes what `extendable` promised; copies go to the end of `moves`.
  void extend(sequence_pages& s, index_t count, std::vector<page_move>& moves) {
    for (int g = 0; g < groups() && count > 0; ++g) {
      auto& table = table_of(s, g);
      if (needs_copy(s, g)) {
        page_id const copy = take(g);
        moves.push_back({page_move::kind::copy, g, table.back(), copy});
        pool_at(g).release(table.back());
        table.back() = copy;
      }
      while (index_t(table.size()) * page_tokens < s.tokens + count) table.push_back(take(g));
    }
    s.tokens += count;
  }
  /// Gives back the pages that no token from here on will see.
  void trim(sequence_pages& s) {
    for (int g = 0; g < groups(); ++g) {
      auto& table = table_of(s, g);
      for (index_t i = first_page(g, s.tokens); i-- > 0 && table[std::size_t(i)] != no_page;) {
        pool_at(g).release(table[std::size_t(i)]);
        table[std::size_t(i)] = no_page;
      }
    }
  }
  /// Forgets all but the first `tokens` tokens, which must still be there.
  void truncate(sequence_pages& s, index_t tokens) {
    for (int g = 0; g < groups(); ++g) {
      auto& table = table_of(s, g);
      while (index_t(table.size()) > ceil_div(tokens, page_tokens)) give_back_last(s, g);
    }
    s.tokens = tokens;
  }
  /// Gives everything back. Last pages first: they are the first that the prefix cache gives up.
  void release(sequence_pages& s) {
    if (s.groups.empty()) return;
    truncate(s, 0);
    prefixes.unpin(s.node);
    s = {};
  }
  /// Another sequence that shares all pages.
  sequence_pages fork(sequence_pages const& s) {
    for (int g = 0; g < int(s.groups.size()); ++g)
      for (page_id const p : table_of(s, g))
        if (p != no_page) (s.is_swapped ? swap_pools : pools)[std::size_t(g)].share(p);
    prefixes.pin(s.node);
    return s;
  }

  /// Begins an empty sequence with the pages of the longest text that is known and wanted; at least one of `tokens`
  /// remains to be computed. Where a group has a window, only its pages must still be there.
  /// @param most tokens that the sequence will have: its tables take no memory later
  void begin(sequence_pages& s, index_t most, std::uint64_t salt, std::span<std::int32_t const> tokens) {
    s.groups.resize(pools.size());
    for (auto& table : s.groups) table.reserve(std::size_t(ceil_div(most, page_tokens)));
    if (!keeps_prefixes) return;
    path.clear();
    std::fill(run.begin(), run.end(), 0);
    index_t const full_pages = (index_t(tokens.size()) - 1) / page_tokens;
    index_t best = 0;
    for (auto n = prefixes.root; index_t(path.size()) < full_pages;) {
      n = prefixes.find(salt, n, page_text(tokens, index_t(path.size())));
      if (n == prefixes.root) break;
      path.push_back(n);
      index_t const length = index_t(path.size());
      bool complete = true;
      for (int g = 0; g < groups(); ++g) {
        auto& pages_in_a_row = run[std::size_t(g)];
        pages_in_a_row = prefixes.page(n, g) == no_page ? 0 : pages_in_a_row + 1;
        complete = complete && pages_in_a_row >= length - first_page(g, length * page_tokens);
      }
      if (complete) best = length;
    }
    if (best == 0) return;
    for (int g = 0; g < groups(); ++g) {
      auto& table = table_of(s, g);
      table.assign(std::size_t(best), no_page);
      for (index_t i = first_page(g, best * page_tokens); i < best; ++i) {
        table[std::size_t(i)] = prefixes.page(path[std::size_t(i)], g);
        pool_at(g).share(table[std::size_t(i)]);
      }
    }
    s.tokens = best * page_tokens;
    s.known_pages = best;
    s.node = path[std::size_t(best - 1)];
    prefixes.pin(s.node);
  }
  /// Makes the sequence's full pages findable. @param tokens those whose keys and values are there, for good
  void publish(sequence_pages& s, std::uint64_t salt, std::span<std::int32_t const> tokens) {
    if (!keeps_prefixes || s.is_swapped) return;
    for (; (s.known_pages + 1) * page_tokens <= index_t(tokens.size()); ++s.known_pages) {
      auto const n = prefixes.find_or_insert(salt, s.node, page_text(tokens, s.known_pages));
      prefixes.pin(n);
      prefixes.unpin(s.node);
      s.node = n;
      for (int g = 0; g < groups(); ++g) {
        page_id const p = table_of(s, g)[std::size_t(s.known_pages)];
        if (p == no_page || prefixes.page(n, g) != no_page) continue;
        pool_at(g).keep(p);
        prefixes.set_page(n, g, p);
        nodes[std::size_t(g)][std::size_t(p)] = n;
      }
    }
  }

  /// Moves the sequence to the swap space. False, and nothing done, when that has no room.
  bool swap_out(sequence_pages& s, std::vector<page_move>& moves) {
    for (int g = 0; g < groups(); ++g)
      if (swap_pool(g).available() < held(s, g)) return false;
    move(s, pools, swap_pools, page_move::kind::swap_out, moves);
    return true;
  }
  /// Moves it back; `lacking` must be available.
  void swap_in(sequence_pages& s, std::vector<page_move>& moves) {
    move(s, swap_pools, pools, page_move::kind::swap_in, moves);
  }

 private:
  static index_t total_pages(std::span<page_group const> groups_) {
    index_t n = 0;
    for (auto const& g : groups_) n += g.pages;
    return n;
  }
  std::vector<page_id>& table_of(sequence_pages& s, int g) const { return s.groups[std::size_t(g)]; }
  std::vector<page_id> const& table_of(sequence_pages const& s, int g) const { return s.groups[std::size_t(g)]; }
  page_pool& pool_at(int g) { return pools[std::size_t(g)]; }
  std::span<std::int32_t const> page_text(std::span<std::int32_t const> tokens, index_t i) const {
    return tokens.subspan(std::size_t(i * page_tokens), std::size_t(page_tokens));
  }
  /// The first page that the token at `position` sees.
  index_t first_page(int g, index_t position) const {
    index_t const w = window(g);
    return w == 0 ? 0 : std::max<index_t>(0, position - w + 1) / page_tokens;
  }
  /// Would the next token go into a page that others read?
  bool needs_copy(sequence_pages const& s, int g) const {
    return s.tokens % page_tokens != 0 && !pool(g).is_writable(table_of(s, g).back());
  }
  page_id take(int g) {
    return pool_at(g).take([&](page_id p) { prefixes.forget_page(nodes[std::size_t(g)][std::size_t(p)], g); });
  }
  void give_back_last(sequence_pages& s, int g) {
    auto& table = table_of(s, g);
    if (table.back() != no_page) (s.is_swapped ? swap_pools : pools)[std::size_t(g)].release(table.back());
    table.pop_back();
  }
  void move(sequence_pages& s, std::vector<page_pool>& from, std::vector<page_pool>& to, page_move::kind what,
            std::vector<page_move>& moves) {
    for (int g = 0; g < groups(); ++g) {
      auto& table = table_of(s, g);
      for (std::size_t i = table.size(); i-- > 0;) {
        if (table[i] == no_page) continue;
        page_id const there = what == page_move::kind::swap_in ? take(g) : to[std::size_t(g)].take([](page_id) {});
        moves.push_back({what, g, table[i], there});
        from[std::size_t(g)].release(table[i]);
        table[i] = there;
      }
    }
    s.is_swapped = what == page_move::kind::swap_out;
  }

  index_t page_tokens;
  bool keeps_prefixes;
  std::vector<page_group> sizes;
  prefix_cache<> prefixes;
  std::vector<page_pool> pools, swap_pools;
  std::vector<std::vector<std::int32_t>> nodes;  ///< per group: the node of each page that is kept
  std::vector<index_t> run;
  std::vector<std::int32_t> path;
};

}  // namespace tenon::infer
