// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <deque>
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

/// Gradients of micro-batches, added in the fixed tree over the micro-batch index (rule 2 of the arithmetic contract).
/// One micro-batch needs one buffer, 2^k need k + 1. When other micro-batches are elsewhere, what is left at the end are
/// the nodes that the ones here make up. `Bound` is what a buffer is bound to (aggregates of views), once per buffer.
///
///     for each micro-batch: write tree.next(); add(...) over all of it, in any parts; tree.close();
///     tree.nodes() is the result, until the next `close`.
/// @test tests/parallel/gradient_tree_test.cpp
template <class Bound>
class gradient_tree {
 public:
  struct slot {
    flat_buffer<float> values;
    Bound bound;
    comm::tree_node node{};
  };
  /// @param bind (float*) -> Bound
  template <class Bind>
  gradient_tree(index_t size, micro_batch_range which, Bind&& bind)
      : range(which), final_nodes(comm::canonical_nodes(which.first, which.first + which.count, which.total)) {
    std::size_t most = 0;
    std::vector<comm::tree_node> open;
    for (index_t i = 0; i < range.count; ++i) {
      most = std::max(most, open.size() + 1);
      open.push_back({0, range.first + i});
      while (are_siblings(open)) merge_last(open);
    }
    for (std::size_t i = 0; i < most; ++i) {
      slots.emplace_back();
      slots.back().values = flat_buffer<float>(size);
      slots.back().bound = bind(slots.back().values.data());
      unused.push_back(&slots.back());
    }
    plan();
  }
  gradient_tree(gradient_tree const&) = delete;

  /// The buffer that the next micro-batch writes over.
  slot& next() { return *current; }
  /// The micro-batch that is being written is the last one.
  bool is_last() const { return done + 1 == range.count; }
  /// Elements [begin, end) of `next()` are written: adds them to what they belong to.
  /// @param add (float* sum, float const* other, index_t n)
  template <class Add>
  void close(index_t begin, index_t end, Add&& add) {
    for (auto const& [left, right] : merges)
      add(left->values.data() + begin, right->values.data() + begin, end - begin);
  }
  /// All of `next()` is closed.
  void close() {
    for (auto const& [left, right] : merges) unused.push_back(right);
    pending = std::exchange(after, {});
    if (++done == range.count) {
      done = 0;
      unused.insert(unused.end(), pending.begin(), pending.end());
      results = std::exchange(pending, {});
    }
    plan();
  }
  /// The nodes that the last micro-batch leaves, from left to right: known as soon as `is_last()`.
  std::span<slot* const> nodes() const { return is_last() ? after : results; }
  /// Of which kind all nodes are, here.
  std::span<comm::tree_node const> node_list() const { return final_nodes; }
  std::size_t bytes() const { return slots.size() * std::size_t(slots.front().values.size()) * sizeof(float); }

 private:
  template <class List>
  static bool are_siblings(List const& l) {
    if (l.size() < 2) return false;
    auto const &a = l[l.size() - 2], &b = l.back();
    return a.level == b.level && a.index % 2 == 0 && b.index == a.index + 1;
  }
  static void merge_last(std::vector<comm::tree_node>& l) {
    l.pop_back();
    l.back() = {l.back().level + 1, l.back().index / 2};
  }
  /// Takes a buffer for the next micro-batch and finds out what it will be added to.
  void plan() {
    // The results stay where they are until the first `close` of the next step: its buffer is another one, if there is.
    current = unused.front();
    unused.pop_front();
    merges.clear();
    after = pending;
    after.push_back(current);
    std::vector<comm::tree_node> open(pending_nodes);
    if (done == 0) open.clear();
    open.push_back({0, range.first + done});
    auto const merge = [&] {
      merges.emplace_back(after[after.size() - 2], after.back());
      after.pop_back();
      merge_last(open);
    };
    while (are_siblings(open)) merge();
    if (is_last())
      while (after.size() > final_nodes.size()) merge();
    pending_nodes = open;
  }

  micro_batch_range range;
  std::vector<comm::tree_node> final_nodes, pending_nodes;
  std::deque<slot> slots;
  std::deque<slot*> unused;
  std::vector<slot*> pending, after, results;
  std::vector<std::pair<slot*, slot*>> merges;
  slot* current = nullptr;
  index_t done = 0;
};

}  // namespace tenon::parallel
