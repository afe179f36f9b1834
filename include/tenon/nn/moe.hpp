// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/nn/expert_exchange.hpp>
#include <tenon/nn/linear.hpp>
#include <tenon/ops/activation.hpp>
#include <tenon/ops/moe.hpp>

namespace tenon::nn {

/// A router and gated mlps of which each token uses some: y = the sum over its slots of weight x expert(x).
///
/// Four steps, of which the third knows rows only: `route`, `dispatch` (rows sorted by expert), the experts, `combine`.
/// The auxiliary loss is `auxiliary_weight` x the balance of each sequence (ops::route_backward).
///
/// Order of sums: an expert's weight gradients are those of a linear layer without the tokens that went elsewhere, in
/// the same leaves of tokens; a leaf of which no token came is +0. So they do not depend on how a batch is cut. The input
/// gradient is the router's, then the slots in slot order, added in fp32.
/// Under expert parallelism a rank holds some of the experts; rows travel to theirs and back, and the weight gradients
/// are those of the samples of all ranks together. The rest is of the rank's own samples.
/// @shape x, y [t, width]   @source Jiang et al. 2024, arXiv:2401.04088
/// @test tests/nn/moe_test.cpp, tests/nn/moe_parallel_test.cpp
struct moe {
  index_t experts = 1;
  index_t slots = 1;          ///< experts per token
  float capacity_factor = 0;  ///< 0: no token is dropped
  float auxiliary_weight = 0;
  std::string router_name, experts_name;
  linear up{};  ///< of each expert: pieces gate, value
  linear down{};
  ops::activation_kind activation = ops::activation_kind::silu;
  int expert_rank = 0, expert_ranks = 1;  ///< see shard_experts

  template <class T>
  struct parameters {
    struct expert {
      linear::parameters<T> up, down;
    };
    matrix_of<T> router;          ///< [experts, width]
    std::vector<expert> experts;  ///< those of this rank
  };
  /// Rows are slots: `outputs` has those of this rank's tokens, at most t x slots, the others those of its experts.
  template <class T>
  struct saved {
    ops::routing routes;
    expert_rows here;
    matrix_view<T> rows;            ///< [rows, width] inputs; empty when the memory policy recomputes them
    matrix_view<T> pre_activation;  ///< [rows, 2 hidden]
    matrix_view<T> hidden;          ///< [rows, hidden]; empty when the memory policy recomputes it
    matrix_view<T> outputs;         ///< [rows, width]
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.router = b.matrix({{router_name, experts}}, ".weight", up.in, {up.stddev});
    if (expert_ranks > 1) b.expert_bucket();
    for (index_t e = 0; e < held_experts(); ++e)
      p.experts.push_back(b.scope(experts_name + "." + std::to_string(expert_rank * held_experts() + e), [&] {
        auto const first = up.bind(b);
        return typename parameters<T>::expert{first, down.bind(b)};
      }));
    return p;
  }
  /// Keeps the hidden features of one rank of tensor parallelism, of every expert; the router is on all ranks.
  void shard(int rank, int ranks) {
    up.shard_outputs(rank, ranks);
    down.shard_inputs(rank, ranks);
  }
  /// Keeps the experts of one rank of expert parallelism, a bucket of their own; the router is on all ranks.
  /// @error argument_error when the experts cannot be shared out evenly
  void shard_experts(int rank, int ranks) {
    if (experts % ranks)
      throw argument_error("tenon::nn::moe: " + std::to_string(experts) + " experts do not come out even on " +
                           std::to_string(ranks) + " expert ranks. Fix: a number of ranks that divides them.");
    expert_rank = rank, expert_ranks = ranks;
  }
  index_t held_experts() const { return experts / expert_ranks; }
  /// Weights that one token meets.
  double active_weights() const {
    return double(experts * up.in) + double(slots) * double(up.in * up.out() + down.in * down.out());
  }

  /// y = residual + moe(x)
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T const> residual,
               matrix_view<T> y, saved<T>& s) const {
    static_assert(!Pass::cuts_tokens,
                  "tenon::nn::moe: sequence_parallel with a mixture of experts; the router reads whole sequences. "
                  "Fix: drop sequence_parallel.");
    if (pass.context_ranks() > 1)
      throw argument_error("tenon::nn::moe: " + std::to_string(pass.context_ranks()) +
                           " context ranks share a sequence, but capacity and balance are of whole sequences. "
                           "Fix: context=1 with a mixture of experts.");
    if (pass.expert_ranks() != expert_ranks)
      throw argument_error("tenon::nn::moe: the experts are cut over " + std::to_string(expert_ranks) +
                           " ranks, and the mesh has expert=" + std::to_string(pass.expert_ranks()) +
                           ". Fix: shard_experts(rank, ranks) with those of the mesh.");
    arena_scope scope(pass.exec.scratch());
    auto const logits = pass.template allocate<float>(experts, false);
    product(pass.exec, x, p.router, logits);
    s.routes = allocate_routing(pass);
    ops::route(pass.exec, ops::route_args{.logits = logits,
                                          .sequence_begins = pass.sequence_begins,
                                          .capacity_factor = capacity_factor,
                                          .out = s.routes});
    s.here = exchange_counts(pass, s.routes);
    auto const rows = dispatch(pass, s, x, keeps_rows(pass));
    s.rows = keeps_rows(pass) ? rows : matrix_view<T>{};
    s.pre_activation = allocate_rows<T>(pass, s, up.out(), true);
    s.outputs = allocate_local<T>(pass, s, down.out(), true);
    auto const outputs = pass.expert_ranks() == 1 ? s.outputs : allocate_rows<T>(pass, s, down.out(), false);
    for_each_expert(s, [&](index_t e, auto of) {
      up.forward(pass, p.experts[std::size_t(e)].up, as_const(of(rows)), of(s.pre_activation));
    });
    auto const hidden = activate(pass, s, Pass::keeps_everything);
    s.hidden = Pass::keeps_everything ? hidden : matrix_view<T>{};
    for_each_expert(s, [&](index_t e, auto of) {
      down.forward(pass, p.experts[std::size_t(e)].down, as_const(of(hidden)), of(outputs));
    });
    rows_to_tokens(pass, s.routes, s.here, outputs, s.outputs);
    ops::combine(pass.exec, ops::combine_args<T>{.y = s.outputs,
                                                 .places = s.routes.places,
                                                 .weights = s.routes.weights,
                                                 .residual = residual,
                                                 .out = y});
  }

  /// d_x is overwritten; it does not hold the residual's gradient.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T> const& s,
                matrix_view<T const> x, matrix_view<T const> d_y, matrix_view<T> d_x) const {
    arena_scope scope(pass.exec.scratch());
    auto const d_weights = pass.template allocate<float>(slots, false);
    auto const d_rows = allocate_rows<T>(pass, s, down.out(), false);  // of outputs, then of inputs
    auto const d_local = local_rows(pass, s, d_rows);
    ops::combine_backward(pass.exec, ops::combine_backward_args<T>{.d_out = d_y,
                                                                   .y = s.outputs,
                                                                   .places = s.routes.places,
                                                                   .weights = s.routes.weights,
                                                                   .d_y = d_local,
                                                                   .d_weights = d_weights});
    rows_to_experts(pass, s.routes, s.here, d_local, d_rows);
    auto const rows = keeps_rows(pass) ? s.rows : dispatch(pass, s, x, false);
    experts_backward(pass, p, g, s, rows, d_rows);
    rows_to_tokens(pass, s.routes, s.here, d_rows, d_local);
    auto const d_router = pass.template allocate<float>(up.in, false);
    router_backward(pass, p, g, s, x, d_weights, d_router);
    ops::combine(
        pass.exec,
        ops::combine_args<T, float>{.y = d_local, .places = s.routes.places, .residual = d_router, .out = d_x});
  }

 private:
  template <class Pass>
  ops::routing allocate_routing(Pass& pass) const {
    index_t const t = pass.tokens(), sequences = index_t(pass.sequence_begins.size()) - 1;
    auto const list = [&](index_t n) { return std::span(pass.saved.template allocate<index_t>(n), std::size_t(n)); };
    return {.probabilities = pass.template allocate<float>(experts, true),
            .chosen = pass.template allocate<index_t>(slots, true),
            .weights = pass.template allocate<float>(slots, true),
            .places = pass.template allocate<index_t>(slots, true),
            .tokens = list(t * slots),
            .begins = list(experts + 1),
            .counts = pass.saved.template allocate_matrix<index_t>(sequences, experts)};
  }
  /// What other ranks sent is kept whatever the memory policy: to send it again is not cheap.
  template <class Pass>
  static bool keeps_rows(Pass const& pass) {
    return Pass::keeps_everything || pass.expert_ranks() > 1;
  }
  /// Rows of this rank's experts.
  template <class T, class Pass>
  static matrix_view<T> allocate_rows(Pass& pass, saved<T> const& s, index_t cols, bool kept) {
    T* const memory = (kept ? pass.saved : pass.exec.scratch()).template allocate<T>(s.here.room * cols);
    return matrix(memory, s.here.rows(), cols);
  }
  /// Rows of this rank's tokens. Takes memory for the most there may be: how much does not depend on the routing.
  template <class T, class Pass>
  matrix_view<T> allocate_local(Pass& pass, saved<T> const& s, index_t cols, bool kept) const {
    return matrix(pass.template allocate<T>(slots * cols, kept).data(), s.routes.rows(), cols);
  }
  /// What becomes `rows` when it has reached the experts: where there is one rank it is.
  template <class Pass, class T>
  matrix_view<T> local_rows(Pass& pass, saved<T> const& s, matrix_view<T> rows) const {
    return pass.expert_ranks() == 1 ? rows : allocate_local<T>(pass, s, rows.extent(1), false);
  }
  template <class Pass, class T>
  matrix_view<T> dispatch(Pass& pass, saved<T> const& s, matrix_view<T const> x, bool kept) const {
    auto const rows = allocate_rows<T>(pass, s, up.in, kept);
    arena_scope scope(pass.exec.scratch());
    auto const local = local_rows(pass, s, rows);
    ops::dispatch(pass.exec, ops::dispatch_args<T>{.x = x, .rows = s.routes.row_tokens(), .out = local});
    rows_to_experts(pass, s.routes, s.here, local, rows);
    return rows;
  }
  template <class Pass, class T>
  matrix_view<T> activate(Pass& pass, saved<T> const& s, bool kept) const {
    auto const hidden = allocate_rows<T>(pass, s, down.in, kept);
    ops::gated_activation_forward(
        pass.exec,
        ops::gated_activation_forward_args<T>{.gate_up = s.pre_activation, .out = hidden, .kind = activation});
    return hidden;
  }
  /// function(e, of), where of(m) are the rows of m that belong to the e-th expert here.
  template <class T, class Function>
  void for_each_expert(saved<T> const& s, Function&& function) const {
    for (index_t e = 0; e < held_experts(); ++e) {
      index_t const begin = s.here.begins[std::size_t(e)], count = s.here.begins[std::size_t(e) + 1] - begin;
      function(e, [=](auto m) { return rows_of(m, begin, count); });
    }
  }

  /// d_rows holds the gradient of the outputs on entry, that of `rows` on return.
  template <class Pass, class T>
  void experts_backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T> const& s,
                        matrix_view<T> rows, matrix_view<T> d_rows) const {
    auto const hidden = s.hidden.empty() ? activate(pass, s, false) : s.hidden;
    auto const d_hidden = allocate_rows<T>(pass, s, down.in, false);
    for_each_expert(s, [&](index_t e, auto of) {
      down.backward(pass, p.experts[std::size_t(e)].down, {}, as_const(of(hidden)), as_const(of(d_rows)), of(d_hidden));
    });
    auto const d_pre = s.pre_activation;  // nobody reads it afterwards
    ops::gated_activation_backward(pass.exec, ops::gated_activation_backward_args<T>{.gate_up = s.pre_activation,
                                                                                     .d_out = d_hidden,
                                                                                     .d_gate_up = d_pre,
                                                                                     .kind = activation});
    for_each_expert(s, [&](index_t e, auto of) {
      auto const& w = p.experts[std::size_t(e)];
      auto const& d_w = g.experts[std::size_t(e)];
      arena_scope scope(pass.exec.scratch());
      auto const order = equal_leaves(pass, s.here, e);
      weight_gradient(pass, order, of(hidden), of(d_rows), d_w.down.weight);
      weight_gradient(pass, order, of(rows), of(d_pre), d_w.up.weight);
      up.backward(pass, w.up, {}, as_const(of(rows)), as_const(of(d_pre)), of(d_rows));
    });
  }

  /// Rows of an expert in leaves of one length, each led by as many -1, which stand for zeros, as it is shorter: those
  /// do not change a chain that begins at +0.
  struct leaf_rows {
    std::span<index_t> rows;
    index_t leaf;
  };
  template <class Pass>
  static leaf_rows equal_leaves(Pass& pass, expert_rows const& here, index_t e) {
    auto const lengths = columns_of(here.counts, e * here.leaves(), here.leaves());  // [ranks, leaves]
    index_t leaf = 0;
    for (index_t p = 0; p < lengths.extent(0); ++p)
      for (index_t l = 0; l < lengths.extent(1); ++l) leaf = std::max(leaf, lengths(p, l));
    index_t const count = lengths.size() * leaf;
    std::span<index_t> const rows(pass.exec.scratch().template allocate<index_t>(count), std::size_t(count));
    auto next = rows.begin();
    for (index_t p = 0, row = 0; p < lengths.extent(0); ++p)
      for (index_t l = 0; l < lengths.extent(1); ++l) {
        next = std::fill_n(next, leaf - lengths(p, l), -1);
        for (index_t n = lengths(p, l); n > 0; --n) *next++ = row++;
      }
    return {rows, leaf};
  }
  template <class Pass, class T>
  static void weight_gradient(Pass& pass, leaf_rows const& order, matrix_view<T> x, matrix_view<T> d_y,
                              matrix_view<float> d_weight) {
    arena_scope scope(pass.exec.scratch());
    auto const in_leaves = [&](matrix_view<T> m) -> matrix_view<T const> {
      arena& memory = pass.deferred ? pass.deferred->memory : pass.exec.scratch();
      auto const out = memory.template allocate_matrix<T>(index_t(order.rows.size()), m.extent(1));
      ops::dispatch(pass.exec, ops::dispatch_args<T>{.x = m, .rows = order.rows, .out = out});
      return out;
    };
    auto const rows_of_x = in_leaves(x), rows_of_d_y = in_leaves(d_y);
    pass.weight_gradients([=, leaf = order.leaf](auto& exec, index_t moved) {
      ops::gemm(exec, ops::gemm_args<float, T, T>{.c = moved_by(d_weight, moved),
                                                  .a = transposed(rows_of_d_y),
                                                  .b = rows_of_x,
                                                  .leaf = leaf});
    });
  }

  template <class Pass, class T>
  void router_backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T> const& s,
                       matrix_view<T const> x, matrix_view<float const> d_weights, matrix_view<float> d_x) const {
    auto const d_logits = pass.template allocate<float>(experts, false);
    index_t const sequences = s.routes.counts.extent(0);
    double* const balance = pass.auxiliary_loss ? pass.exec.scratch().template allocate<double>(sequences) : nullptr;
    ops::route_backward(pass.exec, ops::route_backward_args{.from = s.routes,
                                                            .sequence_begins = pass.sequence_begins,
                                                            .d_weights = d_weights,
                                                            .balance_scale = auxiliary_weight * pass.auxiliary_scale,
                                                            .d_logits = d_logits,
                                                            .balance = balance});
    if (balance)
      for (index_t i = 0; i < sequences; ++i) pass.auxiliary_loss->add(double(auxiliary_weight) * balance[i]);
    pass.weight_gradients([to = g.router, d = pass.for_later(as_const(d_logits), false), x = pass.for_later(x, false),
                           leaf = pass.token_leaf()](auto& exec, index_t moved) {
      ops::gemm(exec,
                ops::gemm_args<float, float, T>{.c = moved_by(to, moved), .a = transposed(d), .b = x, .leaf = leaf});
    });
    ops::gemm(pass.exec, ops::gemm_args<float, float, T>{.c = d_x, .a = d_logits, .b = p.router});
  }
};

}  // namespace tenon::nn
