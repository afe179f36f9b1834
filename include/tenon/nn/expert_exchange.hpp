// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Rows of a mixture of experts on their way to the ranks that hold the experts, and back.
///
/// The ranks of an expert group work on micro-batches that follow each other, so rows in the order of ranks are in the
/// order of tokens: an expert meets the rows, in the order, that it would meet on one rank with all the samples.
/// @source Lepikhin et al. 2020, arXiv:2006.16668   @test tests/nn/moe_parallel_test.cpp
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <tenon/core/arena.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/core/view.hpp>
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/ops/moe.hpp>

namespace tenon::nn {

/// The rows that this rank's experts work on: by expert, then by rank of the expert group, then by token.
struct expert_rows {
  matrix_view<index_t> counts;   ///< [ranks, experts here x token leaves] rows that came, by rank, expert and leaf
  std::span<index_t> begins;     ///< [experts here + 1] rows [begins[e], begins[e + 1]) are those of the e-th one here
  index_t room = 0;              ///< rows that memory is taken for
  std::span<index_t> arrival{};  ///< [rows] the place of a row in what came, rank after rank; empty on one rank
  std::span<index_t> places{};   ///< [rows] its inverse

  index_t rows() const { return begins.back(); }
  index_t leaves() const { return counts.extent(1) / (index_t(begins.size()) - 1); }
  index_t rows_from(int rank) const {
    index_t const* const n = &counts(rank, 0);
    return std::accumulate(n, n + counts.extent(1), index_t(0));
  }
};

namespace detail {

/// `sent(p)` values of `from`, one rank's behind the other's, go to rank p; `received(p)` values come from it.
template <class C, class T, class Sent, class Received>
void trade_stretches(C& group, T const* from, Sent&& sent, T* to, Received&& received) {
  auto const next = [](auto*& at, index_t count) {
    return std::span(std::exchange(at, at + count), std::size_t(count));
  };
  trade(
      group, [&](int p) { return next(from, index_t(sent(p))); },
      [&](int p) { return next(to, index_t(received(p))); });
}

/// Rows that this rank sends to rank `p` of those that hold the experts.
inline index_t rows_to(ops::routing const& r, int p, int ranks) {
  index_t const held = r.experts() / ranks;
  return r.begins[std::size_t((p + 1) * held)] - r.begins[std::size_t(p * held)];
}

/// Rows by expert and leaf of tokens. @shape out [experts, leaves]
inline void count_by_leaf(ops::routing const& r, index_t leaf, matrix_view<index_t> out) {
  std::fill_n(out.data(), out.size(), 0);
  for (index_t e = 0; e < r.experts(); ++e)
    for (index_t i = r.begins[std::size_t(e)]; i < r.begins[std::size_t(e) + 1]; ++i)
      ++out(e, r.tokens[std::size_t(i)] / leaf);
}

}  // namespace detail

/// Tells the ranks which rows will come: those of all ranks for the experts here. Lists are in `pass.saved`.
template <class Pass>
expert_rows exchange_counts(Pass& pass, ops::routing const& r) {
  int const ranks = pass.expert_ranks();
  index_t const leaf = pass.token_leaf() ? pass.token_leaf() : pass.tokens(), leaves = ceil_div(pass.tokens(), leaf);
  index_t const held = r.experts() / ranks, most = index_t(r.tokens.size());
  auto const own =
      (ranks == 1 ? pass.saved : pass.exec.scratch()).template allocate_matrix<index_t>(r.experts(), leaves);
  detail::count_by_leaf(r, leaf, own);
  if constexpr (!Pass::alone)
    if (ranks > 1) {
      auto const list = [&](index_t n) { return std::span(pass.saved.template allocate<index_t>(n), std::size_t(n)); };
      expert_rows at{pass.saved.template allocate_matrix<index_t>(ranks, held * leaves), list(held + 1)};
      auto const each = [&](int) { return held * leaves; };
      detail::trade_stretches(pass.mesh->expert, own.data(), each, at.counts.data(), each);
      std::vector<index_t> next(std::size_t(ranks), 0);  // of what came from a rank
      for (int p = 1; p < ranks; ++p) next[std::size_t(p)] = next[std::size_t(p) - 1] + at.rows_from(p - 1);
      index_t const rows = next.back() + at.rows_from(ranks - 1);
      // More than `most` rows may come. In few sizes, so that memory is soon enough for any of them.
      at.room = std::max(most, round_up(rows, ceil_div(most, 8)));
      at.arrival = list(at.room).first(std::size_t(rows)), at.places = list(at.room).first(std::size_t(rows));
      at.begins[0] = 0;
      for (index_t e = 0, row = 0; e < held; at.begins[std::size_t(++e)] = row)
        for (int p = 0; p < ranks; ++p)
          for (index_t l = 0; l < leaves; ++l)
            for (index_t n = at.counts(p, e * leaves + l); n > 0; --n, ++row) {
              index_t const came = next[std::size_t(p)]++;
              at.arrival[std::size_t(row)] = came, at.places[std::size_t(came)] = row;
            }
      return at;
    }
  return {matrix(own.data(), 1, own.size()), r.begins, most};
}

/// Rows from the ranks of their tokens to those of their experts. On one rank `here` is the same memory.
/// @shape local [r.rows(), c]  here [at.rows(), c]
template <class Pass, class T>
void rows_to_experts(Pass& pass, ops::routing const& r, expert_rows const& at, matrix_view<T> local,
                     matrix_view<T> here) {
  if constexpr (!Pass::alone)
    if (int const ranks = pass.expert_ranks(); ranks > 1) {
      index_t const width = local.extent(1);
      arena_scope scope(pass.exec.scratch());
      auto const came = matrix(pass.exec.scratch().template allocate<T>(at.room * width), at.rows(), width);
      detail::trade_stretches(
          pass.mesh->expert, local.data(), [&](int p) { return detail::rows_to(r, p, ranks) * width; }, came.data(),
          [&](int p) { return at.rows_from(p) * width; });
      ops::dispatch(pass.exec, ops::dispatch_args<T>{.x = came, .rows = at.arrival, .out = here});
    }
}

/// And back.
template <class Pass, class T>
void rows_to_tokens(Pass& pass, ops::routing const& r, expert_rows const& at, matrix_view<T> here,
                    matrix_view<T> local) {
  if constexpr (!Pass::alone)
    if (int const ranks = pass.expert_ranks(); ranks > 1) {
      index_t const width = local.extent(1);
      arena_scope scope(pass.exec.scratch());
      auto const going = matrix(pass.exec.scratch().template allocate<T>(at.room * width), at.rows(), width);
      ops::dispatch(pass.exec, ops::dispatch_args<T>{.x = here, .rows = at.places, .out = going});
      detail::trade_stretches(
          pass.mesh->expert, going.data(), [&](int p) { return at.rows_from(p) * width; }, local.data(),
          [&](int p) { return detail::rows_to(r, p, ranks) * width; });
    }
}

}  // namespace tenon::nn
