// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Encoders, in which every token sees all of its sequence. Forward only.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <tenon/nn/attention.hpp>
#include <tenon/nn/combinators.hpp>
#include <tenon/nn/embedding.hpp>
#include <tenon/nn/mlp.hpp>
#include <tenon/nn/norm.hpp>

namespace tenon::nn {

/// y = norm(x + inner(x)): the post-norm residual branch.
/// @shape x, y [t, width]   @source Vaswani et al. 2017, arXiv:1706.03762
template <class Norm, class Inner>
struct post_norm {
  std::string inner_name, norm_name;
  Inner inner;
  Norm norm;

  template <class T>
  struct parameters {
    typename Inner::template parameters<T> inner;
    typename Norm::template parameters<T> norm;
  };
  template <class T>
  struct saved {
    typename Inner::template saved<T> inner;
    typename Norm::saved norm;
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    auto const p = b.scope(inner_name, [&] { return inner.bind(b); });
    return {p, b.scope(norm_name, [&] { return norm.bind(b); })};
  }
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved<T>& s) const {
    arena_scope scope(pass.exec.scratch());
    auto const sum = pass.template allocate_own<T>(x.extent(1), false);
    inner.forward(pass, p.inner, x, x, sum, s.inner);
    norm.forward(pass, p.norm, as_const(sum), y, s.norm);
  }
};

/// Embeddings of words, places and types with one norm, and layers of attention and mlp with post-norm residuals. All
/// tokens are of the first type. @source Devlin et al. 2018, arXiv:1810.04805   @test tests/parity/embed_test.py
struct encoder {
  using layer_list = repeat<sequential<post_norm<layer_norm, self_attention>, post_norm<layer_norm, mlp>>>;

  std::string embedding_name;  ///< of the three tables and their norm
  token_embedding words, types;
  std::string norm_name;
  layer_norm norm;
  layer_list layers;

  template <class T>
  struct parameters {
    token_embedding::parameters<T> words, types;
    layer_norm::parameters<T> norm;
    typename layer_list::template parameters<T> layers;
  };
  template <class T>
  struct saved {
    layer_norm::saved norm;
    typename layer_list::template saved<T> layers;
  };
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    auto p = b.scope(embedding_name, [&] {
      auto const words_here = words.bind(b), types_here = types.bind(b);
      return parameters<T>{words_here, types_here, b.scope(norm_name, [&] { return norm.bind(b); }), {}};
    });
    p.layers = layers.bind(b);
    return p;
  }
  index_t width() const { return words.width; }

  /// What the last layer makes of each token, in `pass.saved`. @shape tokens [t], result [t, width]
  template <class Pass, class W, class T>
  matrix_view<T const> forward(Pass& pass, parameters<W const> const& p, std::span<std::int32_t const> tokens,
                               saved<T>& s) const {
    auto const x = pass.template allocate_own<T>(width(), true);
    {
      arena_scope scope(pass.exec.scratch());
      auto const sum = pass.template allocate_own<T>(width(), false),
                 type = pass.template allocate_own<T>(width(), false);
      words.forward(pass, p.words, tokens, sum);
      types.forward(pass, p.types, std::vector<std::int32_t>(tokens.size()), type);
      ops::add(pass.exec, ops::add_args<T, T>{sum.data(), type.data(), sum.size()});
      norm.forward(pass, p.norm, as_const(sum), x, s.norm);
    }
    return layers.forward(pass, p.layers, as_const(x), s.layers);
  }
};

}  // namespace tenon::nn
