// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Self-attention of sequences that are cut over ranks by their tokens: the bits of one rank.
///
/// - ring: keys and values of each rank travel to the ranks behind it, from one to the next, and a rank has two chunks of
///   them at a time. They come in order of their positions, and what a query has so far (the softmax's state, the sum of
///   its gradient) is carried from chunk to chunk. The gradients of keys and values are sums over ranks: nodes of the tree
///   over query leaves. Rank r of N works on r + 1/2 chunks, so that the ring takes 2 - 1/N times the mean.
///   @source Liu et al. 2023, arXiv:2310.01889
/// - all_to_all: ranks trade their tokens for heads, each attends with its heads over whole sequences, and they trade
///   back. All have the same to do. @source Jacobs et al. 2023, arXiv:2309.14509
/// - all_gather: every rank gathers the keys and values of the whole sequence. Of its 2 N pieces, rank r holds 2 r and
///   2 r + 1, and is lent the queries of r and 2 N - 1 - r: together they see as many keys on every rank. Outputs and
///   gradients travel back. @source Grattafiori et al. 2024, arXiv:2407.21783, section 3.3.2
///
/// One sequence of the micro-batch at a time: scratch memory is that of one.
#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <tenon/comm/reduce.hpp>
#include <tenon/core/error.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/ops/attention.hpp>

namespace tenon::nn {

namespace detail {

/// Columns of q, k and v in a matrix that holds all three.
struct attention_columns {
  index_t query, kv;  ///< widths
  explicit attention_columns(ops::attention_options const& o)
      : query(index_t(o.query_heads) * o.head_width), kv(index_t(o.kv_heads) * o.head_width) {}
  index_t all() const { return query + 2 * kv; }
  template <class T>
  matrix_view<T> q(matrix_view<T> m) const {
    return columns_of(m, 0, query);
  }
  template <class T>
  matrix_view<T> k(matrix_view<T> m) const {
    return columns_of(m, query, kv);
  }
  template <class T>
  matrix_view<T> kv_of(matrix_view<T> m) const {
    return columns_of(m, query, 2 * kv);
  }
  template <class T>
  matrix_view<T> v(matrix_view<T> m) const {
    return columns_of(m, query + kv, kv);
  }
};

template <class T>
ops::attention_forward_args<T> forward_args(ops::attention_options const& o, std::span<index_t const> begins,
                                            matrix_view<T const> qkv, matrix_view<T> out,
                                            matrix_view<float> log_sum_exp) {
  attention_columns const c(o);
  return {c.q(qkv), c.k(qkv), c.v(qkv), out, log_sum_exp, begins, o};
}
template <class T>
ops::attention_backward_args<T> backward_args(ops::attention_options const& o, std::span<index_t const> begins,
                                              matrix_view<T const> qkv, matrix_view<T const> out,
                                              matrix_view<float const> log_sum_exp, matrix_view<T const> d_out,
                                              matrix_view<T> d_qkv) {
  attention_columns const c(o);
  return {c.q(qkv), c.k(qkv), c.v(qkv), out, log_sum_exp, d_out, c.q(d_qkv), c.k(d_qkv), c.v(d_qkv), begins, o};
}

/// @error argument_error when the parts of a sequence, or heads under all_to_all, do not come out even
template <class Pass>
void check_context(Pass const& pass, ops::attention_options const& o) {
  index_t const ranks = pass.context_ranks(), length = pass.sequence_length, leaf = pass.token_leaf();
  auto const refuse = [&](std::string const& what) {
    throw argument_error("tenon::nn::context_attention: " + std::to_string(ranks) + " ranks cannot share " + what);
  };
  if (length % (ranks * (leaf ? leaf : 1)))
    refuse("a sequence of " + std::to_string(length) + " tokens, which is summed in leaves of " +
           std::to_string(leaf ? leaf : 1) + ". Fix: a number of ranks that divides its " +
           std::to_string(leaf ? length / leaf : length) + " leaves, or a length that is a multiple of " +
           std::to_string(ranks * reduction_order::least_token_leaf) + ".");
  if (pass.exchange == context_exchange::ring && length / ranks % ops::attention_key_block)
    refuse("a sequence of " + std::to_string(length) + " tokens by a ring, whose chunks are whole blocks of " +
           std::to_string(ops::attention_key_block) + " keys. Fix: a multiple of " +
           std::to_string(ranks * ops::attention_key_block) + " tokens, or context_exchange::all_to_all.");
  if (pass.exchange == context_exchange::all_to_all && o.kv_heads % ranks)
    refuse(std::to_string(o.kv_heads) +
           " KV heads. Fix: a number of ranks that divides them, or context_exchange::ring.");
  index_t const unit = leaf ? leaf : lanes;
  if (pass.exchange == context_exchange::all_gather && length % (2 * ranks * unit))
    refuse("a sequence of " + std::to_string(length) + " tokens by all_gather, in two pieces each of whole leaves of " +
           std::to_string(unit) + ". Fix: at most " + std::to_string(length / unit / 2) +
           " ranks, or context_exchange::ring.");
}

/// to = from, rounded; both [rows, cols] with column stride 1.
template <class Pass, class From, class To>
void copy_rows(Pass& pass, matrix_view<From const> from, matrix_view<To> to) {
  index_t const cols = from.extent(1);
  pass.exec.pool().for_range(from.extent(0), ceil_div(16384, cols), [&](index_t begin, index_t end) {
    for (index_t r = begin; r < end; ++r)
      std::transform(&from(r, 0), &from(r, 0) + cols, &to(r, 0), [](From x) { return To(x); });
  });
}

/// Which ranks see which chunks of keys, `rows` keys each.
struct context_chunks {
  index_t ranks, rows, window;
  bool seen(index_t rank, index_t chunk) const {
    index_t const query = rank * rows;
    index_t const first_key = window > 0 && query >= window ? query - window + 1 : 0;
    return rank < ranks && chunk <= rank && chunk >= first_key / rows;
  }
  /// Those that see it, as nodes of the tree over ranks: one that has no sibling on its left is its parent.
  std::vector<comm::tree_node> nodes(index_t chunk) const {
    std::vector<comm::tree_node> all;
    for (index_t r = chunk; seen(r, chunk); ++r) all.push_back({0, r});
    for (auto& n = all[0]; n.index % 2; n.index /= 2) ++n.level;
    return all;
  }
};
template <class Pass>
context_chunks chunks_of(Pass const& pass, ops::attention_options const& o) {
  return {pass.context_ranks(), pass.local_length(), o.window};
}

/// Calls visit(chunk, keys and values) for all chunks in order; what this rank does not see is empty. A chunk arrives
/// while the one before is worked on where the pass has a stream.
template <class Pass, class T, class Visit>
void visit_chunks(Pass& pass, context_chunks const& chunks, matrix_view<T const> own, Visit&& visit) {
  int const rank = pass.mesh->context.rank();
  arena_scope scope(pass.exec.scratch());
  matrix_view<T> buffers[2];
  for (auto& b : buffers) b = pass.exec.scratch().template allocate_matrix<T>(own.extent(0), own.extent(1));
  auto const bytes = std::size_t(own.size()) * sizeof(T);
  typename std::remove_pointer_t<decltype(pass.context_stream)>::request moved{};
  auto const start = [&](index_t chunk) {
    if (!chunks.seen(rank, chunk)) return;
    auto const buffer = buffers[chunk % 2];
    comm::transfer const from{rank - 1, false, buffer.data(), chunk == rank ? 0 : bytes};
    comm::transfer const to{rank + 1, true, buffer.data(), chunks.seen(rank + 1, chunk) ? bytes : 0};
    if (chunk == rank && to.bytes) copy_rows(pass, own, buffer);
    auto const move = [from, to](auto& group) {
      if (from.bytes) group.exchange(std::span(&from, 1));
      if (to.bytes) group.exchange(std::span(&to, 1));
    };
    if (pass.context_stream) moved = pass.context_stream->enqueue(move);
    else move(pass.mesh->context);
  };
  auto const wait = [&] {
    if (pass.context_stream) pass.context_stream->wait(moved);
  };
  start(0);
  for (index_t chunk = 0; chunk < chunks.ranks; ++chunk) {
    wait();
    start(chunk + 1);
    if (chunk == rank) visit(chunk, own);
    else visit(chunk, chunks.seen(rank, chunk) ? as_const(buffers[chunk % 2]) : matrix_view<T const>{});
  }
  wait();
}

template <class Pass, class T>
void ring_forward(Pass& pass, ops::attention_options const& o, matrix_view<T const> qkv, matrix_view<T> heads,
                  matrix_view<float> log_sum_exp) {
  attention_columns const c(o);
  index_t const rows = pass.local_length();
  arena_scope scope(pass.exec.scratch());
  float* const carried = pass.exec.scratch().template allocate<float>(ops::attention_forward_carried(o, rows));
  for (index_t s = 0; s < pass.tokens() / rows; ++s) {
    auto const local = rows_of(qkv, s * rows, rows);
    auto args = forward_args(o, {}, local, rows_of(heads, s * rows, rows), columns_of(log_sum_exp, s * rows, rows));
    visit_chunks(pass, chunks_of(pass, o), c.kv_of(local), [&](index_t chunk, matrix_view<T const> kv) {
      if (kv.empty()) return;
      args.k = columns_of(kv, 0, c.kv), args.v = columns_of(kv, c.kv, c.kv);
      args.part = {pass.sequence_length, pass.first_position(), chunk * rows, carried};
      ops::attention_forward(pass.exec, args);
    });
  }
}

/// d_kv, on the rank whose chunk it is, = the sum over ranks of `mine`; ranks that do not see the chunk have none.
template <class Pass, class T>
void sum_chunk(Pass& pass, context_chunks const& chunks, index_t chunk, matrix_view<float> mine, matrix_view<T> d_kv) {
  auto& group = pass.mesh->context;
  std::vector<int> vectors_of(std::size_t(chunks.ranks));
  std::vector<std::size_t> cuts(std::size_t(chunks.ranks) + 1);
  for (index_t r = 0; r < chunks.ranks; ++r) {
    vectors_of[std::size_t(r)] = chunks.seen(r, chunk);
    cuts[std::size_t(r) + 1] = r < chunk ? 0 : std::size_t(d_kv.size());
  }
  float* const values = mine.data();
  float const* const offered = values;
  group.visit_shards(std::span(&offered, chunks.seen(group.rank(), chunk) ? 1 : 0), vectors_of, cuts,
                     [&, sum = comm::node_sum(chunks.nodes(chunk))](std::size_t begin, std::size_t end,
                                                                    std::span<float const* const> vectors) {
                       sum(values + begin, vectors, end - begin);
                     });
  if (group.rank() == chunk) copy_rows(pass, as_const(mine), d_kv);
}

template <class Pass, class T>
void ring_backward(Pass& pass, ops::attention_options const& o, matrix_view<T const> qkv, matrix_view<T const> heads,
                   matrix_view<float const> log_sum_exp, matrix_view<T const> d_heads, matrix_view<T> d_qkv) {
  attention_columns const c(o);
  index_t const rows = pass.local_length();
  arena_scope scope(pass.exec.scratch());
  float* const carried = pass.exec.scratch().template allocate<float>(ops::attention_backward_carried<T>(o, rows));
  auto const d_kv = pass.exec.scratch().template allocate_matrix<float>(rows, 2 * c.kv);
  auto const chunks = chunks_of(pass, o);
  for (index_t s = 0; s < pass.tokens() / rows; ++s) {
    auto const here = [&](auto m) { return rows_of(m, s * rows, rows); };
    auto args = backward_args(o, {}, here(qkv), here(heads), columns_of(log_sum_exp, s * rows, rows), here(d_heads),
                              here(d_qkv));
    args.d_keys = d_kv;
    visit_chunks(pass, chunks, c.kv_of(here(qkv)), [&](index_t chunk, matrix_view<T const> kv) {
      if (!kv.empty()) {
        args.k = columns_of(kv, 0, c.kv), args.v = columns_of(kv, c.kv, c.kv);
        args.part = {pass.sequence_length, pass.first_position(), chunk * rows, carried};
        ops::attention_backward(pass.exec, args);
      }
      sum_chunk(pass, chunks, chunk, d_kv, c.kv_of(here(d_qkv)));
    });
  }
}

/// One sequence of a dense matrix, reshaped from [local tokens, columns] to [all tokens, columns / ranks].
template <class T>
matrix_view<T> sequence_by_heads(matrix_view<T> m, index_t sequence, index_t rows, int ranks) {
  return matrix(m.data() + sequence * rows * m.extent(1), rows * ranks, m.extent(1) / ranks);
}

/// The same of log_sum_exp: [heads, local tokens] of a sequence after the other's becomes [heads / ranks, all tokens].
template <class T>
matrix_view<T> log_sum_exp_by_heads(matrix_view<T> m, index_t sequence, index_t rows, int ranks) {
  return matrix(m.data() + sequence * rows * m.extent(0), m.extent(0) / ranks, rows * ranks);
}

/// Trades this rank's tokens of all heads for all tokens of its heads, and back where `by_tokens` can be written.
/// By tokens: matrices [local tokens, columns]. By heads: one dense matrix [all tokens, the sum of columns / ranks], in
/// which those of each matrix lie side by side. It may share memory with `by_tokens`.
template <class Pass, class T, std::size_t Matrices>
void trade_heads(Pass& pass, std::array<matrix_view<T>, Matrices> const& by_tokens, std::remove_const_t<T>* by_heads) {
  using value = std::remove_const_t<T>;
  auto& group = pass.mesh->context;
  index_t const ranks = group.size(), rows = by_tokens[0].extent(0);
  index_t width = 0;
  for (auto const& m : by_tokens) width += m.extent(1) / ranks;
  arena_scope scope(pass.exec.scratch());
  value* const packed = pass.exec.scratch().template allocate<value>(ranks * rows * width);  // [ranks][rows][width]
  auto const for_parts = [&](auto&& copy) {
    for (index_t p = 0; p < ranks; ++p) {
      index_t at = 0;
      for (auto const& m : by_tokens) {
        index_t const own = m.extent(1) / ranks;
        copy(columns_of(m, p * own, own), columns_of(matrix(packed + p * rows * width, rows, width), at, own));
        at += own;
      }
    }
  };
  auto const trade_parts = [&](value const* from, value* to) {
    auto const size = std::size_t(rows * width);
    trade(
        group, [&](int p) { return std::span(from + p * rows * width, size); },
        [&](int p) { return std::span(to + p * rows * width, size); });
  };
  if constexpr (std::is_const_v<T>) {
    for_parts([&](matrix_view<T> m, matrix_view<value> part) { copy_rows(pass, m, part); });
    trade_parts(packed, by_heads);
  } else {
    trade_parts(by_heads, packed);
    for_parts([&](matrix_view<T> m, matrix_view<value> part) { copy_rows(pass, as_const(part), m); });
  }
}

inline ops::attention_options heads_of_rank(ops::attention_options o, int ranks) {
  o.query_heads /= ranks;
  o.kv_heads /= ranks;
  return o;
}

template <class Pass, class T>
void all_to_all_forward(Pass& pass, ops::attention_options const& o, matrix_view<T> qkv, matrix_view<T> heads,
                        matrix_view<float> log_sum_exp) {
  attention_columns const c(o);
  int const ranks = pass.context_ranks();
  index_t const rows = pass.local_length(), begins[] = {0, pass.sequence_length};
  arena_scope scope(pass.exec.scratch());
  T* const out = pass.exec.scratch().template allocate<T>(rows * c.query);
  for (index_t s = 0; s < pass.tokens() / rows; ++s) {
    auto const local = as_const(rows_of(qkv, s * rows, rows));
    auto const mine = sequence_by_heads(qkv, s, rows, ranks);
    trade_heads(pass, std::array{c.q(local), c.k(local), c.v(local)}, mine.data());
    ops::attention_forward(pass.exec, forward_args(heads_of_rank(o, ranks), begins, as_const(mine),
                                                   matrix(out, rows * ranks, c.query / ranks),
                                                   log_sum_exp_by_heads(log_sum_exp, s, rows, ranks)));
    trade_heads(pass, std::array{rows_of(heads, s * rows, rows)}, out);
  }
}

template <class Pass, class T>
void all_to_all_backward(Pass& pass, ops::attention_options const& o, matrix_view<T const> qkv,
                         matrix_view<T const> heads, matrix_view<float const> log_sum_exp, matrix_view<T const> d_heads,
                         matrix_view<T> d_qkv) {
  attention_columns const c(o);
  int const ranks = pass.context_ranks();
  index_t const rows = pass.local_length(), width = c.query / ranks, begins[] = {0, pass.sequence_length};
  arena_scope scope(pass.exec.scratch());
  auto const outs = pass.exec.scratch().template allocate_matrix<T>(rows * ranks, 2 * width);  // out and d_out
  auto const d_mine = pass.exec.scratch().template allocate_matrix<T>(rows * ranks, c.all() / ranks);
  for (index_t s = 0; s < pass.tokens() / rows; ++s) {
    trade_heads(pass, std::array{rows_of(heads, s * rows, rows), rows_of(d_heads, s * rows, rows)}, outs.data());
    ops::attention_backward(
        pass.exec,
        backward_args(heads_of_rank(o, ranks), begins, sequence_by_heads(qkv, s, rows, ranks),
                      as_const(columns_of(outs, 0, width)), log_sum_exp_by_heads(log_sum_exp, s, rows, ranks),
                      as_const(columns_of(outs, width, width)), d_mine));
    auto const d_local = rows_of(d_qkv, s * rows, rows);
    trade_heads(pass, std::array{c.q(d_local), c.k(d_local), c.v(d_local)}, d_mine.data());
  }
}

/// Which of the 2 N pieces of a sequence a rank holds, and of which it is lent the queries.
using pieces_of_rank = std::array<index_t, 2>(int rank, int ranks);
inline std::array<index_t, 2> pieces_held(int rank, int) { return {2 * rank, 2 * rank + 1}; }
inline std::array<index_t, 2> pieces_lent(int rank, int ranks) { return {rank, 2 * ranks - 1 - rank}; }

/// Rows of the pieces that ranks have in `from` travel to where they are in `to`; both dense.
template <class Group, class T>
void trade_pieces(Group& group, pieces_of_rank from, matrix_view<T const> before, pieces_of_rank to,
                  matrix_view<T> after) {
  auto const size = std::size_t(before.size()) / 2;
  // What the pieces `mine` in `data` have in common with `its`: none, one or, where N is odd, both.
  auto const shared = [&](auto* data, std::array<index_t, 2> mine, std::array<index_t, 2> its) {
    auto const is_its = [&](index_t piece) { return piece == its[0] || piece == its[1]; };
    bool const first = is_its(mine[0]), second = is_its(mine[1]);
    return std::span(data + (first ? 0 : size), size * (std::size_t(first) + std::size_t(second)));
  };
  int const me = group.rank(), ranks = group.size();
  trade(
      group, [&](int p) { return shared(before.data(), from(me, ranks), to(p, ranks)); },
      [&](int p) { return shared(after.data(), to(me, ranks), from(p, ranks)); });
}

/// Keys and values of a whole sequence, of which `own` are this rank's.
template <class Pass, class T>
void gather_kv(Pass& pass, matrix_view<T const> own, matrix_view<T> all) {
  copy_rows(pass, own, rows_of(all, pass.first_position(), own.extent(0)));
  gather(pass.mesh->context, all, comm::even_cuts(std::size_t(all.size()), pass.context_ranks()));
}

/// What is kept in a sequence's rows of qkv: the queries lent to this rank, behind them its own keys and values; dense.
template <class T>
struct kept_pieces {
  matrix_view<T> q, kv;
  kept_pieces(attention_columns const& c, matrix_view<T> qkv)
      : q(matrix(qkv.data(), qkv.extent(0), c.query)), kv(matrix(qkv.data() + q.size(), qkv.extent(0), 2 * c.kv)) {}
};

template <class Pass, class T>
void all_gather_forward(Pass& pass, ops::attention_options const& o, matrix_view<T> qkv, matrix_view<T> heads,
                        matrix_view<float> log_sum_exp) {
  attention_columns const c(o);
  auto& group = pass.mesh->context;
  index_t const rows = pass.local_length(), piece = rows / 2;
  arena_scope scope(pass.exec.scratch());
  auto const kv = pass.exec.scratch().template allocate_matrix<T>(pass.sequence_length, 2 * c.kv);
  auto const out = pass.exec.scratch().template allocate_matrix<T>(rows, c.query);
  for (index_t s = 0; s < pass.tokens() / rows; ++s) {
    auto const local = rows_of(qkv, s * rows, rows), own_out = rows_of(heads, s * rows, rows);
    kept_pieces const kept(c, local);
    gather_kv(pass, as_const(c.kv_of(local)), kv);
    copy_rows(pass, as_const(c.q(local)), own_out);
    trade_pieces(group, pieces_held, as_const(own_out), pieces_lent, kept.q);
    copy_rows(pass, as_const(rows_of(kv, pass.first_position(), rows)), kept.kv);
    ops::attention_forward_args<T> args{};
    args.k = columns_of(kv, 0, c.kv), args.v = columns_of(kv, c.kv, c.kv), args.options = o;
    index_t row = 0;
    for (index_t p : pieces_lent(group.rank(), group.size())) {
      args.q = rows_of(kept.q, row, piece), args.out = rows_of(out, row, piece);
      args.log_sum_exp = columns_of(log_sum_exp, s * rows + row, piece);
      args.part = {pass.sequence_length, p * piece};
      ops::attention_forward(pass.exec, args);
      row += piece;
    }
    trade_pieces(group, pieces_lent, as_const(out), pieces_held, own_out);
  }
}

/// d_kv = the sum over all pieces of queries. Each rank has the part of its first piece, for the keys of the first half
/// of the sequence, and that of its second, for all keys. Over the ranks the first are the left half of the tree over
/// query leaves; the second, from the last rank to the first, the right half: a tree that is the same when mirrored.
template <class Pass, class T>
void sum_pieces(Pass& pass, matrix_view<float> first, matrix_view<float> second, matrix_view<T> d_kv) {
  auto& group = pass.mesh->context;
  auto const me = std::size_t(group.rank()), all = std::size_t(second.size());
  auto const cuts = comm::even_cuts(all, group.size());
  auto half_cuts = cuts;
  for (auto& at : half_cuts) at = std::min(at, all / 2);
  float *const left = first.data() + half_cuts[me], *const right = second.data() + cuts[me];
  comm::reduce_scatter(group, first.data(), left, half_cuts);
  comm::reduce_scatter(group, second.data(), right, cuts);
  comm::node_sum(2)(right, std::array<float const*, 2>{left, right}, half_cuts[me + 1] - half_cuts[me]);
  copy_rows(pass, as_const(matrix(right, d_kv.extent(0), d_kv.extent(1))), d_kv);
}

template <class Pass, class T>
void all_gather_backward(Pass& pass, ops::attention_options const& o, matrix_view<T const> qkv,
                         matrix_view<T const> heads, matrix_view<float const> log_sum_exp, matrix_view<T const> d_heads,
                         matrix_view<T> d_qkv) {
  attention_columns const c(o);
  auto& group = pass.mesh->context;
  auto& scratch = pass.exec.scratch();
  index_t const length = pass.sequence_length, rows = pass.local_length(), piece = rows / 2;
  arena_scope scope(scratch);
  auto const kv = scratch.template allocate_matrix<T>(length, 2 * c.kv);
  auto const like_q = [&] { return scratch.template allocate_matrix<T>(rows, c.query); };
  auto const out = like_q(), d_out = like_q(), dq = like_q();
  index_t const half = std::min(length, round_up(length / 2, ops::attention_key_block));  // a first piece sees no more
  auto const first = scratch.template allocate_matrix<float>(half, 2 * c.kv);
  auto const second = scratch.template allocate_matrix<float>(length, 2 * c.kv);
  ops::attention_backward_args<T> args{};
  args.options = o;
  args.part = {length, 0, 0, scratch.template allocate<float>(ops::attention_backward_carried<T>(o, piece))};
  for (index_t s = 0; s < pass.tokens() / rows; ++s) {
    auto const here = [&](auto m) { return rows_of(m, s * rows, rows); };
    kept_pieces const kept(c, here(qkv));
    gather_kv(pass, kept.kv, kv);
    trade_pieces(group, pieces_held, here(heads), pieces_lent, out);
    trade_pieces(group, pieces_held, here(d_heads), pieces_lent, d_out);
    index_t row = 0;
    for (index_t p : pieces_lent(group.rank(), group.size())) {
      auto const lent = [&](auto m) { return rows_of(m, row, piece); };
      args.q = lent(kept.q), args.out = lent(out), args.d_out = lent(d_out), args.dq = lent(dq);
      args.log_sum_exp = columns_of(log_sum_exp, s * rows + row, piece);
      args.d_keys = row == 0 ? first : second;
      auto const seen = rows_of(kv, 0, args.d_keys.extent(0));
      args.k = columns_of(seen, 0, c.kv), args.v = columns_of(seen, c.kv, c.kv);
      args.part.query = p * piece;
      ops::attention_backward(pass.exec, args);
      row += piece;
    }
    trade_pieces(group, pieces_lent, as_const(dq), pieces_held, out);
    copy_rows(pass, as_const(out), c.q(here(d_qkv)));
    sum_pieces(pass, first, second, c.kv_of(here(d_qkv)));
  }
}

}  // namespace detail

/// Causal self-attention of every sequence of the pass, with the tokens of all context ranks.
/// @shape qkv, d_qkv [t, (query_heads + 2 kv_heads) head_width]  heads [t, query_heads head_width]
/// log_sum_exp [query_heads, t]; all dense
/// @param qkv afterwards what backward needs of it: under all_to_all this rank's heads of whole sequences, under
/// all_gather the queries that it works on before its keys and values
/// @param log_sum_exp for backward only, likewise
/// @error argument_error when the ranks cannot share a sequence or, under all_to_all, the heads evenly
/// @test tests/nn/context_attention_test.cpp
template <class Pass, class T>
void context_attention_forward(Pass& pass, ops::attention_options const& o, matrix_view<T> qkv, matrix_view<T> heads,
                               matrix_view<float> log_sum_exp) {
  if constexpr (!Pass::alone)
    if (pass.context_ranks() > 1) {
      detail::check_context(pass, o);
      if (pass.exchange == context_exchange::ring)
        return detail::ring_forward(pass, o, as_const(qkv), heads, log_sum_exp);
      if (pass.exchange == context_exchange::all_gather)
        return detail::all_gather_forward(pass, o, qkv, heads, log_sum_exp);
      return detail::all_to_all_forward(pass, o, qkv, heads, log_sum_exp);
    }
  ops::attention_forward(pass.exec, detail::forward_args(o, pass.sequence_begins, as_const(qkv), heads, log_sum_exp));
}

/// The gradient of all three from that of `heads`. @shape as context_attention_forward; d_heads as heads
template <class Pass, class T>
void context_attention_backward(Pass& pass, ops::attention_options const& o, matrix_view<T const> qkv,
                                matrix_view<T const> heads, matrix_view<float const> log_sum_exp,
                                matrix_view<T const> d_heads, matrix_view<T> d_qkv) {
  if constexpr (!Pass::alone)
    if (pass.context_ranks() > 1) {
      if (pass.exchange == context_exchange::ring)
        return detail::ring_backward(pass, o, qkv, heads, log_sum_exp, d_heads, d_qkv);
      if (pass.exchange == context_exchange::all_gather)
        return detail::all_gather_backward(pass, o, qkv, heads, log_sum_exp, d_heads, d_qkv);
      return detail::all_to_all_backward(pass, o, qkv, heads, log_sum_exp, d_heads, d_qkv);
    }
  ops::attention_backward(pass.exec,
                          detail::backward_args(o, pass.sequence_begins, qkv, heads, log_sum_exp, d_heads, d_qkv));
}

}  // namespace tenon::nn
