// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <optional>
#include <vector>

#include <tenon/nn/context_attention.hpp>
#include <tenon/nn/linear.hpp>
#include <tenon/nn/norm.hpp>
#include <tenon/ops/attention.hpp>
#include <tenon/ops/rope.hpp>

namespace tenon::nn {

/// Rotary position embedding of queries and keys; `base` 0: none.
struct rope_options {
  float base = 0;
  ops::rope_pairing pairing = ops::rope_pairing::half;
  std::vector<float> factors{};  ///< each pair turns so much slower; empty: none
};

/// Self-attention with grouped queries: one fused projection to q, k and v, attention, one projection back.
/// With `head_norm` each head of q and k is normalised before positions turn it. @source Dehghani et al. 2023,
/// arXiv:2302.05442
/// A pass that has a cache attends by itself: to what came before as well.
/// @shape x, y [t, width]   @test tests/nn/attention_test.cpp
struct self_attention {
  int query_heads = 1, kv_heads = 1, head_width = 1;
  index_t window = 0;  ///< 0: every earlier token is seen
  float soft_cap = 0;  ///< 0: none
  bool causal = true;  ///< no later token is seen
  rope_options rope{};
  std::optional<rms_norm> head_norm{};
  linear qkv{};  ///< pieces q, k and v, or one piece that holds all three
  linear projection{};

  template <class T>
  struct parameters {
    linear::parameters<T> qkv, projection;
    rms_norm::parameters<T> q_norm{}, k_norm{};
  };
  template <class T>
  struct saved {
    matrix_view<T> raw;     ///< [t, (query_heads + 2 kv_heads) head_width] before head norms, where there are any
    float* rstd = nullptr;  ///< of those, [query_heads + kv_heads, t]
    matrix_view<T> qkv;     ///< [t, (query_heads + 2 kv_heads) head_width], as context_attention_forward leaves it
    matrix_view<T> heads;   ///< [t, query_heads head_width]
    matrix_view<float> log_sum_exp;  ///< [query_heads, t]
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.qkv = qkv.bind(b);
    p.projection = projection.bind(b);
    if (head_norm) {
      p.q_norm = b.scope("q_norm", [&] { return head_norm->bind(b); });
      p.k_norm = b.scope("k_norm", [&] { return head_norm->bind(b); });
    }
    return p;
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
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T const> residual,
               matrix_view<T> y, saved<T>& s) const {
    s.qkv = pass.template allocate<T>(query_width() + 2 * kv_width(), true);
    s.heads = pass.template allocate<T>(query_width(), true);
    if (head_norm) {
      s.raw = Pass::forward_only ? s.qkv : pass.template allocate<T>(query_width() + 2 * kv_width(), true);
      s.rstd = pass.saved.template allocate<float>((query_heads + kv_heads) * pass.tokens());
      qkv.forward(pass, p.qkv, x, s.raw);
      normalize_heads(pass, p, s);
    } else {
      qkv.forward(pass, p.qkv, x, s.qkv);
    }
    rotate(pass, s.qkv, false);
    if constexpr (Pass::forward_only) {
      pass.attend(options(pass), as_const(s.qkv), s.heads);
    } else {
      s.log_sum_exp = pass.saved.template allocate_matrix<float>(query_heads, pass.tokens());
      context_attention_forward(pass, options(pass), s.qkv, s.heads, s.log_sum_exp);
    }
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
    if (head_norm) head_norms_backward(pass, p, g, s, d_qkv);
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
            .causal = causal,
            .window = window,
            .soft_cap = soft_cap,
            .query_leaf = round_up(leaf, lanes)};
  }
  template <class Pass, class W, class T>
  void normalize_heads(Pass& pass, parameters<W const> const& p, saved<T> const& s) const {
    for (int h = 0; h < query_heads + kv_heads; ++h) {
      rms_norm::saved rstd{s.rstd + h * pass.tokens()};
      head_norm->again(pass, h < query_heads ? p.q_norm : p.k_norm, as_const(head(s.raw, h)), head(s.qkv, h), rstd);
    }
    index_t const first = query_width() + kv_width();
    if (s.raw.data() != s.qkv.data())
      detail::copy_rows(pass, as_const(columns_of(s.raw, first, kv_width())), columns_of(s.qkv, first, kv_width()));
  }
  /// The gradient of a head norm's weight is the sum over its heads, in order.
  template <class Pass, class T>
  void head_norms_backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T> const& s,
                           matrix_view<T> d_qkv) const {
    if (pass.tensor_ranks() > 1)
      throw argument_error("tenon::nn::self_attention: norms of heads on " + std::to_string(pass.tensor_ranks()) +
                           " tensor ranks, each of which has some heads. Fix: tensor<1> to train it.");
    for (bool of_q : {true, false}) {
      float* const sum = of_q ? g.q_norm.weight : g.k_norm.weight;
      for (int first = of_q ? 0 : query_heads, h = first; h < (of_q ? query_heads : query_heads + kv_heads); ++h) {
        auto const d = head(d_qkv, h);
        ops::rms_norm_backward(pass.exec,
                               ops::rms_norm_backward_args<T>{.d_out = d,
                                                              .x = head(s.raw, h),
                                                              .rstd = s.rstd + h * pass.tokens(),
                                                              .weight = of_q ? p.q_norm.weight : p.k_norm.weight,
                                                              .d_x = d,
                                                              .d_weight = sum,
                                                              .leaf = pass.token_leaf(),
                                                              .accumulate = h > first});
      }
    }
  }
  template <class T>
  matrix_view<T> head(matrix_view<T> m, int h) const {
    return columns_of(m, index_t(h) * head_width, head_width);
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
                                           .factors = rope.factors,
                                           .pairing = rope.pairing,
                                           .inverse = inverse});
  }
};

}  // namespace tenon::nn
