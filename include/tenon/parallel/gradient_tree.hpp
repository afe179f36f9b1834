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
///     tree.nodes() is the result, until the next micro-batch is written.
/// @test tests/parallel/gradient_tree_test.cpp
template <class Bound>
class gradient_tree {
 public:
  struct slot {
    flat_buffer<float> values;
    Bound bound;
  };
  /// @param bind (float*) -> Bound
  template <class Bind>
  gradient_tree(index_t size, micro_batch_range which, Bind&& bind)
      : final_nodes(comm::canonical_nodes(which.first, which.first + which.count, which.total)) {
    std::vector<slot*> unused, pending;
    std::vector<comm::tree_node> nodes;  // of `pending`
    for (index_t i = 0; i < which.count; ++i) {
      if (unused.empty()) {
        slots.emplace_back();
        slots.back().values = flat_buffer<float>(size);
        slots.back().bound = bind(slots.back().values.data());
        unused.push_back(&slots.back());
      }
      turn t{.current = unused.back()};
      unused.pop_back();
      pending.push_back(t.current);
      nodes.push_back({0, which.first + i});
      auto const merge = [&] {
        t.merges.emplace_back(pending[pending.size() - 2], pending.back());
        unused.push_back(pending.back());
        pending.pop_back(), nodes.pop_back();
        nodes.back() = {nodes.back().level + 1, nodes.back().index / 2};
      };
      while (are_siblings(nodes)) merge();
      if (i + 1 == which.count)
        while (pending.size() > final_nodes.size()) merge();
      turns.push_back(std::move(t));
    }
    results = pending;
  }
  gradient_tree(gradient_tree const&) = delete;

  /// The buffer that the next micro-batch writes over.
  slot& next() { return *turns[at].current; }
  /// The micro-batch that is being written is the last one.
  bool is_last() const { return at + 1 == turns.size(); }
  /// Elements [begin, end) of `next()` are written: adds them to what they belong to.
  /// @param add (float* sum, float const* other, index_t n)
  template <class Add>
  void close(index_t begin, index_t end, Add&& add) {
    for (auto const& [left, right] : turns[at].merges)
      add(left->values.data() + begin, right->values.data() + begin, end - begin);
  }
  /// All of `next()` is closed.
  void close() { at = is_last() ? 0 : at + 1; }
  /// Where the sums are behind the last micro-batch: nodes of the tree, from left to right.
  std::span<slot* const> nodes() const { return results; }
  /// Which nodes those are.
  std::span<comm::tree_node const> node_list() const { return final_nodes; }
  std::size_t bytes() const { return slots.size() * std::size_t(slots.front().values.size()) * sizeof(float); }

 private:
  static bool are_siblings(std::vector<comm::tree_node> const& l) {
    if (l.size() < 2) return false;
    auto const &a = l[l.size() - 2], &b = l.back();
    return a.level == b.level && a.index % 2 == 0 && b.index == a.index + 1;
  }
  /// What is done with one micro-batch.
  struct turn {
    slot* current = nullptr;
    std::vector<std::pair<slot*, slot*>> merges{};  ///< the second is added to the first
  };
  std::vector<comm::tree_node> final_nodes;
  std::deque<slot> slots;
  std::vector<turn> turns;
  std::vector<slot*> results;
  std::size_t at = 0;
};

}  // namespace tenon::parallel
