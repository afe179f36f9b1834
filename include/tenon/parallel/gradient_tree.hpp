// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <span>
#include <utility>
#include <vector>

#include <tenon/comm/reduce.hpp>
#include <tenon/core/tensor.hpp>

namespace tenon::parallel {

/// A flat buffer of `size` values of T, zeroed.
template <class T>
using flat_buffer = dense_tensor<T, extents<dynamic>>;

/// Which micro-batches of a step are added here: [first, first + count) of `total`, which are the leaves of one tree.
struct micro_batch_range {
  index_t first = 0, count = 1, total = 1;
};

/// Which of a few buffers each micro-batch is written into, and what is added behind it: numbers, for the tree of gradients
/// and for who wants to know how many buffers it takes.
struct gradient_turns {
  struct merge {
    std::size_t sum, other;  ///< buffers: the second is added to the first
  };
  struct turn {
    std::size_t current;
    std::vector<merge> merges{};
  };
  std::vector<turn> turns;             ///< one for each micro-batch
  std::vector<std::size_t> results;    ///< the buffers of the nodes that are left, from left to right
  std::vector<comm::tree_node> nodes;  ///< which those are
  std::size_t buffers = 0;

  constexpr explicit gradient_turns(micro_batch_range which)
      : nodes(comm::canonical_nodes(which.first, which.first + which.count, which.total)) {
    std::vector<std::size_t> unused;
    std::vector<comm::tree_node> pending;  // what `results` holds so far
    for (index_t i = 0; i < which.count; ++i) {
      if (unused.empty()) unused.push_back(buffers++);
      turn t{unused.back()};
      unused.pop_back();
      results.push_back(t.current);
      pending.push_back({0, which.first + i});
      while (are_siblings(pending) || (i + 1 == which.count && pending.size() > nodes.size())) {
        unused.push_back(results.back());
        results.pop_back(), pending.pop_back();
        t.merges.push_back({results.back(), unused.back()});
        pending.back() = {pending.back().level + 1, pending.back().index / 2};
      }
      turns.push_back(std::move(t));
    }
  }

 private:
  static constexpr bool are_siblings(std::vector<comm::tree_node> const& l) {
    if (l.size() < 2) return false;
    auto const &a = l[l.size() - 2], &b = l.back();
    return a.level == b.level && a.index % 2 == 0 && b.index == a.index + 1;
  }
};

/// Gradients of micro-batches, added in the fixed tree over the micro-batch index (rule 2 of the arithmetic contract).
/// One micro-batch needs one buffer, 2^k need k + 1. When other micro-batches are elsewhere, what is left at the end are
/// the nodes that the ones here make up.
///
///     for each micro-batch: write tree.next(); add(...) over all of it, in any parts; tree.close();
///     tree.nodes() is the result, until the next micro-batch is written.
/// @test tests/parallel/gradient_tree_test.cpp
class gradient_tree {
 public:
  gradient_tree(index_t size, micro_batch_range which) : plan(which) {
    for (std::size_t i = 0; i < plan.buffers; ++i) buffers.emplace_back(size);
    for (std::size_t i : plan.results) results.push_back(buffers[i].data());
  }
  gradient_tree(gradient_tree const&) = delete;

  /// The buffer that the next micro-batch writes over.
  float* next() { return buffers[plan.turns[at].current].data(); }
  /// The micro-batch that is being written is the last one.
  bool is_last() const { return at + 1 == plan.turns.size(); }
  /// Elements [begin, end) of `next()` are written: adds them to what they belong to.
  /// @param add (float* sum, float const* other, index_t n)
  template <class Add>
  void close(index_t begin, index_t end, Add&& add) {
    for (auto const& [sum, other] : plan.turns[at].merges)
      add(buffers[sum].data() + begin, buffers[other].data() + begin, end - begin);
  }
  /// All of `next()` is closed.
  void close() { at = is_last() ? 0 : at + 1; }
  /// Where the sums are behind the last micro-batch: nodes of the tree, from left to right.
  std::span<float* const> nodes() const { return results; }
  /// Which nodes those are.
  std::span<comm::tree_node const> node_list() const { return plan.nodes; }
  std::size_t bytes() const { return buffers.size() * std::size_t(buffers.front().size()) * sizeof(float); }

 private:
  gradient_turns plan;
  std::vector<flat_buffer<float>> buffers;
  std::vector<float*> results;
  std::size_t at = 0;
};

}  // namespace tenon::parallel
