// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <vector>

#include <tenon/infer/page_tables.hpp>

namespace {
using namespace tenon;
using namespace tenon::infer;
using text = std::vector<std::int32_t>;

struct same_for_all {
  std::uint64_t operator()(std::uint64_t, std::uint64_t, std::span<std::int32_t const>) const { return 5; }
};

/// Nodes come and go as in a map from whole texts.
template <class Hash>
void check_against_map(unsigned seed) {
  std::mt19937 random(seed);
  prefix_cache<Hash> cache(2, 1, 50);
  std::map<std::pair<std::uint64_t, text>, std::pair<std::int32_t, page_id>> known;  // node and page
  for (page_id i = 0; i < 3000; ++i) {
    std::uint64_t const salt = random() % 2;
    text path;
    auto node = cache.root;
    for (unsigned depth = 1 + unsigned(random() % 3); depth > 0; --depth) {
      text const step{std::int32_t(random() % 2), std::int32_t(random() % 2)};
      path.insert(path.end(), step.begin(), step.end());
      auto const found = cache.find(salt, node, step);
      auto const at = known.find({salt, path});
      CHECK((found != cache.root) == (at != known.end()));
      if (at == known.end()) {
        node = cache.find_or_insert(salt, node, step);
        cache.set_page(node, 0, i);
        known[{salt, path}] = {node, i};
        break;
      }
      CHECK(found == at->second.first);
      CHECK(cache.page(found, 0) == at->second.second);
      node = found;
    }
    if (known.size() < 30) continue;
    // One that has no child loses its page, as when the pool gives it to somebody else.
    for (auto at = known.begin(); at != known.end(); ++at) {
      auto const child = std::next(at);
      bool const has_child = child != known.end() && child->first.first == at->first.first &&
                             child->first.second.size() > at->first.second.size();
      if (has_child || random() % 4) continue;
      cache.forget_page(at->second.first, 0);
      known.erase(at);
      break;
    }
    CHECK(cache.size() == index_t(known.size()));
  }
}
}  // namespace

TEST_SUITE("prefix_cache") {
  TEST_CASE("texts are told apart by content, whatever the hash") {
    check_against_map<prefix_hash>(1);
    check_against_map<same_for_all>(2);
  }

  TEST_CASE("a node stays while it has a child or a pin") {
    prefix_cache<> cache(1, 2, 8);
    text const a{1}, b{2};
    auto const parent = cache.find_or_insert(0, cache.root, a);
    cache.set_page(parent, 0, 4);
    cache.set_page(parent, 1, 5);
    auto const child = cache.find_or_insert(0, parent, b);
    cache.pin(child);
    cache.forget_page(parent, 0);
    CHECK(cache.page(parent, 1) == 5);
    cache.forget_page(parent, 1);
    CHECK(cache.find(0, cache.root, a) == parent);
    CHECK(cache.find(0, parent, b) == child);
    cache.unpin(child);
    CHECK(cache.size() == 0);
    CHECK(cache.find(0, cache.root, a) == cache.root);
  }

  TEST_CASE("a hit shares the pages of the longest known text, the window's only where there is one") {
    page_group const groups[] = {{10, 0}, {10, 4}};
    page_tables tables(2, groups, 0, true);
    std::vector<page_move> moves;
    text const t{1, 2, 3, 4, 5, 6, 7, 8, 9};
    sequence_pages first, second, other;
    tables.begin(first, 20, 0, t);
    CHECK(first.tokens == 0);
    tables.extend(first, 9, moves);
    tables.publish(first, 0, t);
    tables.release(first);
    tables.begin(second, 20, 0, std::span(t).first(8));
    CHECK(second.tokens == 6);  // the last token must be computed, so not all 8
    CHECK(second.groups[0].size() == 3);
    CHECK(second.groups[1][0] == no_page);  // token 6 sees 3, 4, 5
    CHECK(second.groups[1][1] != no_page);
    tables.begin(other, 20, 1, t);
    CHECK(other.tokens == 0);  // another salt
    // The second group gives up the pages left longest ago: the last of the text first.
    tables.extend(other, 13, moves);
    tables.release(second);
    tables.begin(second, 20, 0, t);
    CHECK(second.tokens == 6);
    tables.release(second);
    tables.release(other);
    CHECK(moves.empty());
    for (int g : {0, 1}) CHECK(tables.pool(g).available() == 10);
  }
}
