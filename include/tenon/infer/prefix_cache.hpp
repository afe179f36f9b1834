// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Which pages hold which text, so that a prompt that begins like an earlier one shares its pages.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include <tenon/core/reduction_order.hpp>
#include <tenon/infer/page_pool.hpp>

namespace tenon::infer {

/// Mixes the words of a key: an FNV step for each word, and the upper half folded in at the end.
struct prefix_hash {
  std::uint64_t operator()(std::uint64_t salt, std::uint64_t parent, std::span<std::int32_t const> tokens) const {
    std::uint64_t h = (0xcbf29ce484222325u ^ salt) * 0x100000001b3u;
    h = (h ^ parent) * 0x100000001b3u;
    for (auto const t : tokens) h = (std::rotl(h, 29) ^ std::uint32_t(t)) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 32);
  }
};

/// A forest of texts in steps of a page: a node is `page_tokens` tokens after those of its parent, and knows the pages
/// that hold their keys and values, one per group of layers, or none any more. Nodes are found by a hash and compared by
/// content: by their tokens, and by which node their parent is, which stands for all tokens before. Texts of different
/// `salt` (another adapter, another user) never meet.
///
/// A node stays while it has a page, a child or a pin. One that lost its page while its children have theirs is a hole:
/// no loss where a window has passed over it, and elsewhere the place where hits end until it is filled again.
/// @tparam Hash a function object (salt, parent, tokens) -> 64 bits; a bad one costs time only
/// @test tests/infer/prefix_cache_test.cpp
template <class Hash = prefix_hash>
class prefix_cache {
 public:
  using node_id = std::int32_t;
  static constexpr node_id root = -1;

  /// @param most_pages in all groups together
  prefix_cache(index_t page_tokens_, int groups_, index_t most_pages)
      : page_tokens(page_tokens_), groups(groups_), buckets(std::bit_ceil(std::size_t(most_pages) + 1), root) {
    nodes.reserve(std::size_t(most_pages));
    texts.reserve(std::size_t(most_pages * page_tokens));
    pages.reserve(std::size_t(most_pages * groups));
  }

  /// The node of these tokens after `parent`, or root when there is none. @shape tokens [page_tokens]
  node_id find(std::uint64_t salt, node_id parent, std::span<std::int32_t const> tokens) const {
    node_id n = buckets[bucket_of(salt, parent, tokens)];
    while (n != root && !is_equal(n, salt, parent, tokens)) n = at(n).next;
    return n;
  }
  /// As `find`, or a new node, which the caller must pin or give a page.
  node_id find_or_insert(std::uint64_t salt, node_id parent, std::span<std::int32_t const> tokens) {
    if (node_id const n = find(salt, parent, tokens); n != root) return n;
    node_id n = unused;
    if (n == root) {
      n = node_id(nodes.size());
      nodes.emplace_back();
      texts.resize(texts.size() + std::size_t(page_tokens));
      pages.resize(pages.size() + std::size_t(groups), no_page);
    } else {
      unused = at(n).next;
    }
    std::copy(tokens.begin(), tokens.end(), texts.begin() + n * page_tokens);
    node_id& first = buckets[bucket_of(salt, parent, tokens)];
    at(n) = {.salt = salt, .parent = parent, .next = first};
    first = n;
    pin(parent);
    ++count;
    return n;
  }
  page_id page(node_id n, int group) const { return pages[std::size_t(n * groups + group)]; }
  void set_page(node_id n, int group, page_id p) {
    pages[std::size_t(n * groups + group)] = p;
    pin(n);
  }
  /// The node's page in the group holds something else from now on.
  void forget_page(node_id n, int group) {
    pages[std::size_t(n * groups + group)] = no_page;
    unpin(n);
  }
  /// The node is to stay until it is unpinned. Nothing to do for root.
  void pin(node_id n) {
    if (n != root) ++at(n).uses;
  }
  void unpin(node_id n) {
    while (n != root && --at(n).uses == 0) n = erase(n);
  }
  index_t size() const { return count; }

 private:
  struct node {
    std::uint64_t salt = 0;
    node_id parent = root, next = root;  ///< next in the bucket, or among unused nodes
    std::int32_t uses = 0;               ///< pages, children and pins
  };
  node& at(node_id n) { return nodes[std::size_t(n)]; }
  node const& at(node_id n) const { return nodes[std::size_t(n)]; }
  std::span<std::int32_t const> text(node_id n) const {
    return std::span(texts).subspan(std::size_t(n * page_tokens), std::size_t(page_tokens));
  }
  bool is_equal(node_id n, std::uint64_t salt, node_id parent, std::span<std::int32_t const> tokens) const {
    return at(n).salt == salt && at(n).parent == parent && std::equal(tokens.begin(), tokens.end(), text(n).begin());
  }
  std::size_t bucket_of(std::uint64_t salt, node_id parent, std::span<std::int32_t const> tokens) const {
    return std::size_t(Hash{}(salt, std::uint64_t(parent), tokens)) & (buckets.size() - 1);
  }
  node_id erase(node_id n) {
    node_id const parent = at(n).parent;
    node_id* link = &buckets[bucket_of(at(n).salt, parent, text(n))];
    while (*link != n) link = &at(*link).next;
    *link = at(n).next;
    at(n).next = unused;
    unused = n;
    --count;
    return parent;
  }

  index_t page_tokens;
  index_t groups;
  std::vector<node_id> buckets;
  std::vector<node> nodes;
  std::vector<std::int32_t> texts;  ///< page_tokens of each node
  std::vector<page_id> pages;       ///< one per group of each node
  node_id unused = root;
  index_t count = 0;
};

}  // namespace tenon::infer
