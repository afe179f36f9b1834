// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/nn/attention.hpp>
#include <tenon/nn/combinators.hpp>
#include <tenon/nn/embedding.hpp>
#include <tenon/nn/mlp.hpp>
#include <tenon/nn/norm.hpp>
#include <tenon/ops/cross_entropy.hpp>

namespace tenon::nn {

/// A decoder-only transformer: embedding, layers of (attention, mlp or mixture) with pre-norm residuals, a last norm and a head
/// that may share the embedding's table. Models (models/) fill in the shapes and the names their files use.
/// @test tests/train/trainer_test.cpp, tests/parity/transformer_parity.py
/// `Branch` is what stands around the two halves of a layer.
template <class Norm, class FeedForward = mlp, template <class, class> class Branch = residual>
struct transformer {
  using layer = sequential<Branch<Norm, self_attention>, Branch<Norm, FeedForward>>;

  token_embedding embedding;
  float embedding_dropout = 0;
  repeat<layer> layers;
  std::string final_norm_name;
  Norm final_norm;
  bool tied = true;
  std::string head_name;                       ///< when not tied
  float soft_cap = 0;                          ///< of the logits; 0: none
  bool has_embedding = true, has_head = true;  ///< a stage of a pipeline may lack them

  template <class T>
  struct parameters {
    token_embedding::parameters<T> embedding;
    typename repeat<layer>::template parameters<T> layers;
    typename Norm::template parameters<T> final_norm;
    matrix_of<T> head;  ///< [vocabulary, width], or the rows of this rank of tensor parallelism
  };
  template <class T>
  struct saved {
    typename repeat<layer>::template saved<T> layers;
    matrix_view<T const> last;
    typename Norm::saved final_norm;
  };
  /// Keeps what rank `rank` of `ranks` has under tensor parallelism: parts of all matrices, all of the rest.
  /// @error argument_error says what does not divide
  void shard(int rank, int ranks) { embedding.shard(rank, ranks), layers.shard(rank, ranks); }
  /// Keeps some of the experts of each mixture, for one rank of expert parallelism; nothing where there are none.
  void shard_experts(int rank, int ranks) {
    if constexpr (requires(FeedForward f) { f.shard_experts(rank, ranks); })
      for (auto& layer : layers.layers) layer.second.inner.shard_experts(rank, ranks);
  }
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    b.bucket();
    if (has_embedding) p.embedding = embedding.bind(b);
    else b.bucket();
    p.layers = layers.bind(b);
    b.bucket();
    if (has_head) p.final_norm = b.scope(final_norm_name, [&] { return final_norm.bind(b); });
    b.bucket();
    if (has_head)
      p.head = tied && has_embedding ? p.embedding.tokens : embedding.table(b, tied ? embedding.token_name : head_name);
    return p;
  }
  /// Layers [first, first + count) as a stage of a pipeline, with the embedding before the first layer and the head
  /// behind the last. A stage that has the head alone holds a copy of a shared table.
  transformer stage(index_t first, index_t count) const {
    transformer s = *this;
    s.layers.first = first;
    s.layers.layers.assign(layers.layers.begin() + first, layers.layers.begin() + first + count);
    s.has_embedding = first == 0;
    s.has_head = first + count == index_t(layers.layers.size());
    return s;
  }
  index_t width() const { return embedding.width; }
  index_t vocabulary() const { return embedding.vocabulary; }

  /// What comes out of the layers, and behind the last of them of the last norm, in `pass.saved`.
  /// @shape tokens [t], result [t, width]
  /// @param x [t, width] what the stage before gave, where there is no embedding here; read until backward
  /// @param gradients of the backward that follows: their memory is used until then; or null
  template <class Pass, class W, class T>
  matrix_view<T const> forward(Pass& pass, parameters<W const> const& p, std::span<std::int32_t const> tokens,
                               matrix_view<T const> x, saved<T>& s,
                               parameters<float> const* gradients = nullptr) const {
    if (has_embedding) {
      auto const embedded = pass.template allocate_own<T>(width(), true);
      embedding.forward(pass, p.embedding, tokens, embedded);
      drop(pass, embedded);
      x = embedded;
    }
    s.last = layers.forward(pass, p.layers, x, s.layers, gradients ? &gradients->layers : nullptr);
    if (!has_head) return s.last;
    auto const hidden = pass.template allocate<T>(width(), true);
    auto const own = rows_of(hidden, pass.own_tokens().first, pass.own_tokens().count);
    final_norm.forward(pass, p.final_norm, s.last, own, s.final_norm);
    gather_tokens(pass, hidden);
    return hidden;
  }

  /// Loss of each token, and with `gradients` the head's gradients: d_hidden (of this rank's tokens) is overwritten, the head's parameter
  /// gradient too. The logits are never held as a whole.
  /// @param gradient_scale what the loss gradient is multiplied by: 1 / (targets in the whole batch), times loss scale
  template <class Pass, class T>
  void head_loss(Pass& pass, parameters<T const> const& p, parameters<float> const* gradients,
                 matrix_view<T const> hidden, std::span<std::int32_t const> targets, float* losses,
                 float gradient_scale, matrix_view<T> d_hidden) const {
    ops::linear_cross_entropy_args<T> args{.hidden = hidden,
                                           .weight = p.head,
                                           .targets = targets,
                                           .losses = losses,
                                           .d_hidden = d_hidden,
                                           .d_weight = gradients ? gradients->head : matrix_view<float>{},
                                           .gradient_scale = gradient_scale,
                                           .leaf_tokens = pass.token_leaf(),
                                           .leaf_vocabulary = Pass::arithmetic::feature_leaf(vocabulary()),
                                           .first_row = embedding.first_row(),
                                           .vocabulary = vocabulary(),
                                           .soft_cap = soft_cap};
    if (pass.tensor_ranks() > 1)
      args.sum_over_ranks = {[](void* mesh, std::span<float> values) {
                               comm::all_reduce(static_cast<decltype(pass.mesh)>(mesh)->tensor, values);
                             },
                             pass.mesh};
    if (pass.deferred && gradients) {  // the logits once more is less than to keep them, or the table's gradient
      pass.weight_gradients([args](auto& exec, index_t moved) mutable {
        args.losses = nullptr, args.d_hidden = {};
        args.d_weight = moved_by(args.d_weight, moved);
        ops::linear_cross_entropy(exec, args);
      });
      args.d_weight = {};
    }
    if (pass.tensor_ranks() == 1 || d_hidden.empty()) return ops::linear_cross_entropy(pass.exec, args);
    arena_scope scope(pass.exec.scratch());
    args.d_hidden = {};
    args.d_hidden_partial = pass.template allocate<float>(width(), false);
    ops::linear_cross_entropy(pass.exec, args);
    sum_over_tensor_ranks(pass, as_const(args.d_hidden_partial), d_hidden);
  }

  /// The logits of some hidden states, on every rank. @shape hidden [n, width], out [n, vocabulary]
  template <class Pass, class W, class T>
  void logits(Pass& pass, parameters<W const> const& p, matrix_view<T const> hidden, matrix_view<float> out) const {
    if (pass.tensor_ranks() == 1) return product(pass.exec, hidden, p.head, out);
    arena_scope scope(pass.exec.scratch());
    auto& group = pass.mesh->tensor;
    index_t const n = hidden.extent(0), first = embedding.first_row(),
                  own = embedding.share(group.rank(), group.size()).count;
    auto const by_row = pass.exec.scratch().template allocate_matrix<float>(vocabulary(), n);
    auto const mine = pass.exec.scratch().template allocate_matrix<float>(n, own);
    product(pass.exec, hidden, p.head, mine);
    for (index_t v = 0; v < own; ++v)
      for (index_t t = 0; t < n; ++t) by_row(first + v, t) = mine(t, v);
    std::vector<std::size_t> cuts;
    for (int r = 0; r < group.size(); ++r)
      cuts.push_back(std::size_t(embedding.share(r, group.size()).first * n) * sizeof(float));
    cuts.push_back(std::size_t(by_row.size()) * sizeof(float));
    group.all_gather(std::as_writable_bytes(std::span(by_row.data(), std::size_t(by_row.size()))), cuts);
    for (index_t t = 0; t < n; ++t)
      for (index_t v = 0; v < vocabulary(); ++v) out(t, v) = by_row(v, t);
  }

  /// Gradients of everything before the head; `d` is d_hidden on entry, that of `x` (where there is no embedding) on
  /// return. The token table's gradient goes to `embedding_gradient` (written over), or is added to the head's when that is empty and tied.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T>& s,
                std::span<std::int32_t const> tokens, matrix_view<T> d, matrix_view<float> embedding_gradient) const {
    if (has_head)
      final_norm.backward(pass, p.final_norm, g.final_norm, s.final_norm, s.last, as_const(d), matrix_view<T const>{},
                          d);
    pass.after_backward(index_t(layers.layers.size()));
    layers.backward(pass, p.layers, g.layers, s.layers, d);
    if (!has_embedding) return;
    drop(pass, d);
    if (embedding.scale != 1) ops::scale(pass.exec, ops::scale_args<T>{d.data(), d.size(), embedding.scale});
    bool const apart = !embedding_gradient.empty();
    pass.weight_gradients([this, pass, g = g.embedding, tokens, d = pass.for_later(as_const(d), false),
                           table = apart ? embedding_gradient : g.embedding.tokens,
                           accumulate = tied && has_head && !apart](auto&, index_t moved) mutable {
      token_embedding::parameters<float> const to{moved_by(g.tokens, moved), moved_by(g.positions, moved)};
      embedding.backward(pass, to, tokens, d, moved_by(table, moved), accumulate);
    });
  }

  /// Floating point operations of forward and backward over `samples` sequences, as papers count them: matrix products
  /// only, causal attention at the half that is visible, recomputation not counted, of experts those that are used.
  double step_flops(double samples, double sequence_length) const {
    double weights = double(vocabulary()) * double(width()), attention = 0;
    for (auto const& l : layers.layers) {
      auto const& a = l.first.inner;
      weights +=
          double(a.qkv.in * a.qkv.out() + a.projection.in * a.projection.out()) + l.second.inner.active_weights();
      double const seen = a.window && double(a.window) < sequence_length ? double(a.window) : (sequence_length + 1) / 2;
      attention += 4 * seen * double(a.query_width());
    }
    return samples * sequence_length * (6 * weights + 3 * attention);
  }

 private:
  template <class Pass, class T>
  void drop(Pass& pass, matrix_view<T> x) const {
    if (!pass.training || embedding_dropout == 0) return;
    if constexpr (!Pass::forward_only)
      ops::dropout(pass.exec, ops::dropout_args<T>{.x = x,
                                                   .out = x,
                                                   .rate = embedding_dropout,
                                                   .stream = random_stream(pass.seed, "embedding.dropout", pass.step),
                                                   .first_sample = pass.first_sample,
                                                   .sequence_length = pass.local_length(),
                                                   .first_position = pass.first_position(),
                                                   .first_token = pass.own_tokens().first});
  }
};

}  // namespace tenon::nn
