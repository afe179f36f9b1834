// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/nn/context_attention.hpp>
#include <tenon/nn/linear.hpp>
#include <tenon/ops/attention.hpp>
#include <tenon/ops/rope.hpp>

namespace tenon::nn {

/// Rotary position embedding of queries and keys; `base` 0: none.
struct rope_options {
  float base = 0;
  ops::rope_pairing pairing = ops::rope_pairing::half;
};

/// Causal self-attention with grouped queries: one fused projection to q, k and v, attention, one projection back.
/// @shape x, y [t, width]   @test tests/nn/attention_test.cpp
struct self_attention {
  int query_heads = 1, kv_heads = 1, head_width = 1;
  index_t window = 0;  ///< 0: every earlier token is seen
  float soft_cap = 0;  ///< 0: none
  rope_options rope{};
  linear qkv{};  ///< pieces q, k and v, or one piece that holds all three
  linear projection{};

  template <class T>
  struct parameters {
    linear::parameters<T> qkv, projection;
  };
  template <class T>
  struct saved {
    matrix_view<T> qkv;    ///< [t, (query_heads + 2 kv_heads) head_width], as context_attention_forward leaves it
    matrix_view<T> heads;  ///< [t, query_heads head_width]
    matrix_view<float> log_sum_exp;  ///< [query_heads, t]
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    auto const first = qkv.bind(b);
    return {first, projection.bind(b)};
  }
  /// Keeps the heads of one rank of tensor parallelism: whole groups, one KV head with the queries that read it.
  void shard(int rank, int ranks) {
    qkv.shard_outputs(rank, ranks);
    projection.shard_inputs(rank, ranks);
    query_heads /= ranks, kv_heads /= ranks;
  }
  index_t query_width() const { return index_t(query_heads) * head_width; }
  index_t kv_width() const { return index_t(kv_heads) * head_width; }

  /// y = residual + attention(x)
  template <class Pass, class T>
  void forward(Pass& pass, parameters<T const> const& p, matrix_view<T const> x, matrix_view<T const> residual,
               matrix_view<T> y, saved<T>& s) const {
    s.qkv = pass.template allocate<T>(query_width() + 2 * kv_width(), true);
    s.heads = pass.template allocate<T>(query_width(), true);
    s.log_sum_exp = pass.saved.template allocate_matrix<float>(query_heads, pass.tokens());
    qkv.forward(pass, p.qkv, x, s.qkv);
    rotate(pass, s.qkv, false);
    context_attention_forward(pass, options(pass), s.qkv, s.heads, s.log_sum_exp);
    projection.forward(pass, p.projection, as_const(s.heads), y, {.residual = residual});
  }

  /// d_x is overwritten; it does not hold the residual's gradient.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T> const& s,
                matrix_view<T const> x, matrix_view<T const> d_y, matrix_view<T> d_x) const {
    arena_scope scope(pass.exec.scratch());
    auto const d_heads = pass.template allocate<T>(query_width(), false);
    auto const d_qkv = pass.template allocate<T>(query_width() + 2 * kv_width(), false);
    projection.backward(pass, p.projection, g.projection, as_const(s.heads), d_y, d_heads);
    context_attention_backward(pass, options(pass), as_const(s.qkv), as_const(s.heads), as_const(s.log_sum_exp),
                               as_const(d_heads), d_qkv);
    rotate(pass, d_qkv, true);
    qkv.backward(pass, p.qkv, g.qkv, x, as_const(d_qkv), d_x);
  }

 private:
  template <class Pass>
  ops::attention_options options(Pass const& pass) const {
    index_t leaf = pass.token_leaf();  // none under arithmetic::fast, but what a rank works on begins with one
    if (!leaf) leaf = pass.context_ranks() == 1 ? pass.sequence_length : pass.local_length() / 2;
    return {.query_heads = query_heads,
            .kv_heads = kv_heads,
            .head_width = head_width,
            .scale = 1.0f / std::sqrt(float(head_width)),
            .causal = true,
            .window = window,
            .soft_cap = soft_cap,
            .query_leaf = round_up(leaf, lanes)};
  }
  template <class Pass, class T>
  void rotate(Pass& pass, matrix_view<T> m, bool inverse) const {
    if (rope.base == 0) return;
    ops::rope(pass.exec, ops::rope_args<T>{.x = columns_of(m, 0, query_width() + kv_width()),
                                           .heads = query_heads + kv_heads,
                                           .width = head_width,
                                           .rotary_width = head_width,
                                           .positions = pass.positions,
                                           .base = rope.base,
                                           .pairing = rope.pairing,
                                           .inverse = inverse});
  }
};

}  // namespace tenon::nn
