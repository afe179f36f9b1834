// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Sums over ranks in the order of the arithmetic contract: the vectors of ranks are consecutive nodes of one tree.
#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <tenon/comm/communicator.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/reduction_order.hpp>

namespace tenon::comm {

namespace detail {
template <class C>
concept OnHost = Communicator<C> && !requires {
  requires C::device_memory;
};
}  // namespace detail

/// [0, n) cut into `parts` stretches of nearly equal length, each but the last a multiple of `unit`.
inline std::vector<std::size_t> even_cuts(std::size_t n, int parts, std::size_t unit = 1) {
  std::vector<std::size_t> cuts(std::size_t(parts) + 1);
  std::size_t const units = (n + unit - 1) / unit;
  for (std::size_t p = 0; p < cuts.size(); ++p) cuts[p] = std::min(n, units * p / std::size_t(parts) * unit);
  return cuts;
}

/// A node of the tree over leaves that all ranks together hold: leaves [index 2^level, (index + 1) 2^level), or what
/// there is of them at the end.
struct tree_node {
  int level = 0;
  index_t index = 0;
  friend bool operator==(tree_node const&, tree_node const&) = default;
};
/// Leaves [first, last) as nodes, from left to right, as few as there can be. @param total leaves of the whole tree: a
/// node that reaches it is whole with fewer leaves
constexpr std::vector<tree_node> canonical_nodes(index_t first, index_t last, index_t total) {
  std::vector<tree_node> nodes;
  while (first < last) {
    int level = 0;
    auto const end_at = [&](int l) { return std::min(total, ((first >> l) + 1) << l); };
    while ((index_t(1) << level) < total && first % (index_t(2) << level) == 0 && end_at(level + 1) <= last) ++level;
    nodes.push_back({level, first >> level});
    first = end_at(level);
  }
  return nodes;
}

/// Adds consecutive nodes of a tree, given from left to right and together making up all of it: siblings are added as
/// soon as both are there, what has no sibling at the end from the right. `push` order is that of `tree`.
/// @test tests/comm/reduce_test.cpp
class node_sum {
 public:
  static constexpr std::size_t stretch = 512;  ///< elements that are added at a time, so that pending nodes stay in L1

  explicit node_sum(std::vector<tree_node> all) : nodes(std::move(all)) {}
  /// One node per rank, of equal level.
  explicit node_sum(int ranks) {
    for (int r = 0; r < ranks; ++r) nodes.push_back({0, r});
  }
  std::size_t size() const { return nodes.size(); }

  /// out[i] = the sum of vectors[.][i] for i in [0, n); `out` may be one of the vectors. Calls
  /// finish(begin, end, sums) instead of writing when it is given.
  template <class Finish>
  void operator()(std::span<float const* const> vectors, std::size_t n, Finish&& finish) const {
    for (std::size_t at = 0; at < n; at += stretch) add_stretch(vectors, at, std::min(n, at + stretch), finish);
  }
  void operator()(float* out, std::span<float const* const> vectors, std::size_t n) const {
    if (vectors.size() == 2) {  // by far the most frequent
      float const *a = vectors[0], *b = vectors[1];
      for (std::size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
      return;
    }
    (*this)(vectors, n, [&](std::size_t begin, std::size_t end, float const* sums) {
      std::copy(sums, sums + (end - begin), out + begin);
    });
  }

 private:
  struct pending {
    tree_node node;
    float const* values;  ///< of the vectors, or a buffer
  };
  template <class Finish>
  void add_stretch(std::span<float const* const> vectors, std::size_t begin, std::size_t end, Finish& finish) const {
    constexpr std::size_t most = 32;
    std::array<pending, most> stack;
    std::array<std::array<float, stretch>, most> buffers;  // one per place of the stack
    std::size_t depth = 0;
    auto const add_top = [&] {
      auto &left = stack[depth - 2], &right = stack[depth - 1];
      float* const to = buffers[depth - 2].data();
      for (std::size_t i = 0; i < end - begin; ++i) to[i] = left.values[i] + right.values[i];
      left = {{left.node.level + 1, left.node.index / 2}, to};
    };
    for (std::size_t v = 0; v < nodes.size(); ++v) {
      stack[depth++] = {nodes[v], vectors[v] + begin};
      // Where a tree lacks leaves at its beginning, neighbours of one level need not be siblings.
      while (depth > 1 && stack[depth - 2].node.level == stack[depth - 1].node.level &&
             stack[depth - 2].node.index % 2 == 0) {
        add_top();
        --depth;
      }
    }
    for (; depth > 1; --depth) add_top();
    finish(begin, end, stack[0].values);
  }
  std::vector<tree_node> nodes;
};

/// Every rank offers one vector of cuts.back() floats; rank r receives the sum over ranks of elements
/// [cuts[r], cuts[r + 1]) at out[0 ...]; `out` may point into its vector.
template <detail::OnHost C>
void reduce_scatter(C& c, float const* mine, float* out, std::span<std::size_t const> cuts) {
  node_sum const sum(c.size());
  std::vector<int> const one(std::size_t(c.size()), 1);
  std::size_t const first = cuts[std::size_t(c.rank())];
  c.visit_shards(std::span(&mine, 1), one, cuts,
                 [&](std::size_t begin, std::size_t end, std::span<float const* const> vectors) {
                   sum(out + (begin - first), vectors, end - begin);
                 });
}

/// data[i] = the sum over ranks of data[i], on every rank.
template <detail::OnHost C>
void all_reduce(C& c, std::span<float> data) {
  constexpr std::size_t few = 2048;  // so few that two messages take longer than sending everything to all
  if (c.size() == 1) return;
  if constexpr (requires { c.all_reduce(data); }) return c.all_reduce(data);
  std::size_t const ranks = std::size_t(c.size()), me = std::size_t(c.rank()), n = data.size();
  if (n <= few) {
    std::vector<float> all(ranks * n);
    std::vector<float const*> vectors;
    std::vector<std::size_t> cuts;
    for (std::size_t p = 0; p < ranks; ++p) vectors.push_back(all.data() + p * n);
    for (std::size_t p = 0; p <= ranks; ++p) cuts.push_back(p * n * sizeof(float));
    std::copy(data.begin(), data.end(), all.begin() + std::ptrdiff_t(me * n));
    c.all_gather(std::as_writable_bytes(std::span(all)), cuts);
    node_sum const sum(c.size());
    return sum(data.data(), vectors, n);
  }
  auto cuts = even_cuts(n, c.size(), std::size_t(lanes));
  reduce_scatter(c, data.data(), data.data() + cuts[me], cuts);
  for (auto& at : cuts) at *= sizeof(float);
  c.all_gather(std::as_writable_bytes(data), cuts);
}

/// The sum over ranks of exact sums: the same for every number of ranks.
template <detail::OnHost C>
void all_reduce(C& c, exact_sum& sum) {
  if (c.size() > 1) c.sum(sum.words());
}

}  // namespace tenon::comm
