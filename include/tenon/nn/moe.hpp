// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include <tenon/core/error.hpp>
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
/// @shape x, y [t, width]   @source Jiang et al. 2024, arXiv:2401.04088   @test tests/nn/moe_test.cpp
struct moe {
  index_t experts = 1;
  index_t slots = 1;          ///< experts per token
  float capacity_factor = 0;  ///< 0: no token is dropped
  float auxiliary_weight = 0;
  std::string router_name, experts_name;
  linear up{};  ///< of each expert: pieces gate, value
  linear down{};
  ops::activation_kind activation = ops::activation_kind::silu;

  template <class T>
  struct parameters {
    struct expert {
      linear::parameters<T> up, down;
    };
    matrix_view<T> router;  ///< [experts, width]
    std::vector<expert> experts;
  };
  /// Rows are slots, at most t x slots.
  template <class T>
  struct saved {
    ops::routing routes;
    matrix_view<T> rows;            ///< [rows, width] inputs; empty when the memory policy recomputes them
    matrix_view<T> pre_activation;  ///< [rows, 2 hidden]
    matrix_view<T> hidden;          ///< [rows, hidden]; empty when the memory policy recomputes it
    matrix_view<T> outputs;         ///< [rows, width]
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.router = b.matrix({{router_name, experts}}, ".weight", up.in, {up.stddev});
    for (index_t e = 0; e < experts; ++e)
      p.experts.push_back(b.scope(experts_name + "." + std::to_string(e), [&] {
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
  /// Weights that one token meets.
  double active_weights() const {
    return double(experts * up.in) + double(slots) * double(up.in * up.out() + down.in * down.out());
  }

  /// y = residual + moe(x)
  template <class Pass, class T>
  void forward(Pass& pass, parameters<T const> const& p, matrix_view<T const> x, matrix_view<T const> residual,
               matrix_view<T> y, saved<T>& s) const {
    static_assert(!Pass::cuts_tokens,
                  "tenon::nn::moe: sequence_parallel with a mixture of experts; the router reads whole sequences. "
                  "Fix: drop sequence_parallel.");
    if (pass.context_ranks() > 1)
      throw argument_error("tenon::nn::moe: " + std::to_string(pass.context_ranks()) +
                           " context ranks share a sequence, but capacity and balance are of whole sequences. "
                           "Fix: context=1 with a mixture of experts.");
    arena_scope scope(pass.exec.scratch());
    auto const logits = pass.template allocate<float>(experts, false);
    ops::gemm(pass.exec, ops::gemm_args<float, T, T>{.c = logits, .a = x, .b = transposed(p.router)});
    s.routes = allocate_routing(pass);
    ops::route(pass.exec, ops::route_args{.logits = logits,
                                          .sequence_begins = pass.sequence_begins,
                                          .capacity_factor = capacity_factor,
                                          .out = s.routes});
    auto const rows = dispatch(pass, s, x, Pass::keeps_everything);
    s.rows = Pass::keeps_everything ? rows : matrix_view<T>{};
    s.pre_activation = allocate_rows<T>(pass, s, up.out(), true);
    s.outputs = allocate_rows<T>(pass, s, down.out(), true);
    for_each_expert(s, [&](index_t e, auto of) {
      up.forward(pass, p.experts[std::size_t(e)].up, as_const(of(rows)), of(s.pre_activation));
    });
    auto const hidden = activate(pass, s, Pass::keeps_everything);
    s.hidden = Pass::keeps_everything ? hidden : matrix_view<T>{};
    for_each_expert(s, [&](index_t e, auto of) {
      down.forward(pass, p.experts[std::size_t(e)].down, as_const(of(hidden)), of(s.outputs));
    });
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
    ops::combine_backward(pass.exec, ops::combine_backward_args<T>{.d_out = d_y,
                                                                   .y = s.outputs,
                                                                   .places = s.routes.places,
                                                                   .weights = s.routes.weights,
                                                                   .d_y = d_rows,
                                                                   .d_weights = d_weights});
    auto const rows = s.rows.empty() ? dispatch(pass, s, x, false) : s.rows;
    experts_backward(pass, p, g, s, rows, d_rows);
    auto const d_router = pass.template allocate<float>(up.in, false);
    router_backward(pass, p, g, s, x, d_weights, d_router);
    ops::combine(pass.exec,
                 ops::combine_args<T, float>{.y = d_rows, .places = s.routes.places, .residual = d_router, .out = d_x});
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
  /// Takes memory for the most rows there may be: how much is taken does not depend on the routing.
  template <class T, class Pass>
  matrix_view<T> allocate_rows(Pass& pass, saved<T> const& s, index_t cols, bool kept) const {
    return matrix(pass.template allocate<T>(slots * cols, kept).data(), s.routes.rows(), cols);
  }
  template <class Pass, class T>
  matrix_view<T> dispatch(Pass& pass, saved<T> const& s, matrix_view<T const> x, bool kept) const {
    auto const rows = allocate_rows<T>(pass, s, up.in, kept);
    ops::dispatch(pass.exec, ops::dispatch_args<T>{.x = x, .rows = s.routes.row_tokens(), .out = rows});
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
  /// function(e, of), where of(m) are the rows of m that belong to expert e.
  template <class T, class Function>
  void for_each_expert(saved<T> const& s, Function&& function) const {
    for (index_t e = 0; e < experts; ++e) {
      index_t const begin = s.routes.begins[std::size_t(e)], count = s.routes.begins[std::size_t(e) + 1] - begin;
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
      auto const order = equal_leaves(pass, of(matrix(s.routes.tokens.data(), s.routes.rows(), 1)));
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
  static leaf_rows equal_leaves(Pass& pass, matrix_view<index_t> tokens) {
    arena& scratch = pass.exec.scratch();
    index_t const tokens_of_leaf = pass.token_leaf() ? pass.token_leaf() : pass.tokens();
    index_t const leaves = ceil_div(pass.tokens(), tokens_of_leaf);
    std::span<index_t> const left(scratch.template allocate<index_t>(leaves), std::size_t(leaves));
    std::fill(left.begin(), left.end(), 0);
    for (index_t i = 0; i < tokens.extent(0); ++i) ++left[std::size_t(tokens(i, 0) / tokens_of_leaf)];
    index_t const leaf = *std::max_element(left.begin(), left.end()), count = leaves * leaf;
    std::span<index_t> const rows(scratch.template allocate<index_t>(count), std::size_t(count));
    std::fill(rows.begin(), rows.end(), -1);
    for (index_t i = 0; i < tokens.extent(0); ++i) {
      index_t const l = tokens(i, 0) / tokens_of_leaf;
      rows[std::size_t((l + 1) * leaf - left[std::size_t(l)]--)] = i;
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
    pass.weight_gradients([=, d = pass.for_later(as_const(d_logits), false), x = pass.for_later(x, false),
                           leaf = pass.token_leaf()](auto& exec, index_t moved) {
      ops::gemm(
          exec,
          ops::gemm_args<float, float, T>{.c = moved_by(g.router, moved), .a = transposed(d), .b = x, .leaf = leaf});
    });
    ops::gemm(pass.exec, ops::gemm_args<float, float, T>{.c = d_x, .a = d_logits, .b = p.router});
  }
};

}  // namespace tenon::nn
