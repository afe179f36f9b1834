// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Combinators: composite blocks that have both directions because their parts do.
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <tenon/comm/site.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/ops/dropout.hpp>
#include <tenon/ops/elementwise.hpp>

namespace tenon::nn {

/// y = x + dropout(inner(norm(x))): the pre-norm residual branch.
/// @shape x, y [t, width]   @source Xiong et al. 2020, arXiv:2002.04745
template <class Norm, class Inner>
struct residual {
  std::string norm_name, inner_name;
  Norm norm;
  Inner inner;
  float dropout = 0;
  std::string dropout_stream;

  template <class T>
  struct parameters {
    typename Norm::template parameters<T> norm;
    typename Inner::template parameters<T> inner;
  };
  template <class T>
  struct saved {
    matrix_view<T const> x;
    matrix_view<T> normed;  ///< empty when the memory policy recomputes it
    typename Norm::saved norm;
    typename Inner::template saved<T> inner;
  };
  void shard(int rank, int ranks) { inner.shard(rank, ranks); }
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.norm = b.scope(norm_name, [&] { return norm.bind(b); });
    p.inner = b.scope(inner_name, [&] { return inner.bind(b); });
    return p;
  }

  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved<T>& s) const {
    arena_scope scope(pass.exec.scratch());
    s.x = x;
    auto const normed = pass.template allocate_own<T>(x.extent(1), Pass::keeps_everything);
    s.normed = Pass::keeps_everything ? normed : matrix_view<T>{};
    norm.forward(pass, p.norm, x, normed, s.norm);
    comm::site const here(inner_name.c_str());
    if (!drops(pass)) return inner.forward(pass, p.inner, as_const(normed), x, y, s.inner);
    inner.forward(pass, p.inner, as_const(normed), matrix_view<T const>{}, y, s.inner);
    drop(pass, as_const(y), y);
    ops::add(pass.exec, ops::add_args<T, T>{y.data(), x.data(), y.size()});
  }

  /// `d` is dy on entry and dx on return.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T>& s,
                matrix_view<T> d) const {
    arena_scope scope(pass.exec.scratch());
    auto normed = s.normed;
    if (normed.empty()) {
      normed = pass.template allocate_own<T>(d.extent(1), false);
      norm.again(pass, p.norm, s.x, normed, s.norm);
    }
    auto d_inner = d;
    if (drops(pass)) {
      d_inner = pass.template allocate_own<T>(d.extent(1), false);
      drop(pass, as_const(d), d_inner);
    }
    auto const d_normed = pass.template allocate_own<T>(d.extent(1), false);
    comm::site const here(inner_name.c_str());
    inner.backward(pass, p.inner, g.inner, s.inner, as_const(normed), as_const(d_inner), d_normed);
    norm.backward(pass, p.norm, g.norm, s.norm, s.x, as_const(d_normed), as_const(d), d);
  }

 private:
  template <class Pass>
  bool drops(Pass const& pass) const {
    return !Pass::forward_only && pass.training && dropout > 0;
  }
  template <class Pass, class T>
  void drop(Pass& pass, matrix_view<T const> x, matrix_view<T> y) const {
    if constexpr (!Pass::forward_only)
      ops::dropout(pass.exec, ops::dropout_args<T>{.x = x,
                                                   .out = y,
                                                   .rate = dropout,
                                                   .stream = random_stream(pass.seed, dropout_stream, pass.step),
                                                   .first_sample = pass.first_sample,
                                                   .sequence_length = pass.local_length(),
                                                   .first_position = pass.first_position(),
                                                   .first_token = pass.own_tokens().first});
  }
};

/// y = x + last(inner(norm(x))): a residual branch with a norm before and one behind. The two are named by `norm_name` and
/// `last_name`. @shape x, y [t, width]   @source Gemma Team 2024, arXiv:2408.00118
template <class Norm, class Inner>
struct sandwich {
  std::string norm_name, inner_name, last_name;
  Norm norm;
  Inner inner;
  Norm last;

  template <class T>
  struct parameters {
    typename Norm::template parameters<T> norm;
    typename Inner::template parameters<T> inner;
    typename Norm::template parameters<T> last;
  };
  template <class T>
  struct saved {
    matrix_view<T const> x;
    matrix_view<T> normed, branch;
    typename Norm::saved norm, last;
    typename Inner::template saved<T> inner;
  };
  void shard(int rank, int ranks) { inner.shard(rank, ranks); }
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    p.norm = b.scope(norm_name, [&] { return norm.bind(b); });
    p.inner = b.scope(inner_name, [&] { return inner.bind(b); });
    p.last = b.scope(last_name, [&] { return last.bind(b); });
    return p;
  }
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved<T>& s) const {
    s.x = x;
    s.normed = pass.template allocate_own<T>(x.extent(1), true);
    s.branch = pass.template allocate_own<T>(x.extent(1), true);
    norm.forward(pass, p.norm, x, s.normed, s.norm);
    comm::site const here(inner_name.c_str());
    inner.forward(pass, p.inner, as_const(s.normed), matrix_view<T const>{}, s.branch, s.inner);
    last.forward(pass, p.last, as_const(s.branch), y, s.last);
    ops::add(pass.exec, ops::add_args<T, T>{y.data(), x.data(), y.size()});
  }
  /// `d` is dy on entry and dx on return.
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T>& s,
                matrix_view<T> d) const {
    arena_scope scope(pass.exec.scratch());
    auto const d_branch = pass.template allocate_own<T>(d.extent(1), false);
    auto const d_normed = pass.template allocate_own<T>(d.extent(1), false);
    last.backward(pass, p.last, g.last, s.last, as_const(s.branch), as_const(d), matrix_view<T const>{}, d_branch);
    comm::site const here(inner_name.c_str());
    inner.backward(pass, p.inner, g.inner, s.inner, as_const(s.normed), as_const(d_branch), d_normed);
    norm.backward(pass, p.norm, g.norm, s.norm, s.x, as_const(d_normed), as_const(d), d);
  }
};

/// One block after the other: y = second(first(x)), both of the same shape.
template <class First, class Second>
struct sequential {
  First first;
  Second second;

  template <class T>
  struct parameters {
    typename First::template parameters<T> first;
    typename Second::template parameters<T> second;
  };
  template <class T>
  struct saved {
    typename First::template saved<T> first;
    typename Second::template saved<T> second;
  };
  void shard(int rank, int ranks) { first.shard(rank, ranks), second.shard(rank, ranks); }
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    auto const p = first.bind(b);
    return {p, second.bind(b)};
  }
  template <class Pass, class W, class T>
  void forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, matrix_view<T> y, saved<T>& s) const {
    auto const middle = pass.template allocate_own<T>(x.extent(1), true);
    first.forward(pass, p.first, x, middle, s.first);
    second.forward(pass, p.second, as_const(middle), y, s.second);
  }
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T>& s,
                matrix_view<T> d) const {
    second.backward(pass, p.second, g.second, s.second, d);
    first.backward(pass, p.first, g.first, s.first, d);
  }
};

/// Layers of one kind, named `<name>.0`, `<name>.1`, ... Under memory::recompute_full only each layer's input is kept.
template <class Block>
struct repeat {
  std::string name;
  std::vector<Block> layers;
  index_t first = 0;  ///< number of the first one: a stage of a pipeline begins anywhere

  template <class T>
  struct parameters {
    std::vector<typename Block::template parameters<T>> layers;
    std::vector<vector_of<T>> begins;  ///< where each layer's parameters begin in their buffer
  };
  template <class T>
  struct saved {
    std::vector<typename Block::template saved<T>> layers;
    std::vector<matrix_view<T const>> inputs;
  };
  void shard(int rank, int ranks) {
    for (auto& layer : layers) layer.shard(rank, ranks);
  }
  template <class T>
  parameters<T> bind(binder<T>& b) const {
    parameters<T> p;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      b.bucket();
      p.begins.push_back(b.position());
      p.layers.push_back(b.scope(name + "." + std::to_string(first + index_t(i)), [&] { return layers[i].bind(b); }));
    }
    return p;
  }
  /// The output of the last layer, in `pass.saved`.
  /// @param gradients what backward will write over (it does so from the last layer to the first), or null. Until then
  /// it is free: what a layer saves lies in the gradients of layers before it.
  template <class Pass, class W, class T>
  matrix_view<T const> forward(Pass& pass, parameters<W const> const& p, matrix_view<T const> x, saved<T>& s,
                               parameters<float> const* gradients = nullptr) const {
    s.layers.resize(layers.size());
    s.inputs.resize(layers.size());
    matrix_view<T> outputs[2];  // of layers by turns, where nobody reads them later
    if (Pass::forward_only)
      for (auto& y : outputs) y = pass.template allocate_own<T>(x.extent(1), true);
    if constexpr (!Pass::forward_only) pass.hooks.result(first - 1, false, x);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      comm::site const here("layer", first + index_t(i));
      pass.hooks.before_layer(index_t(i), false);
      if (gradients) pass.saved.lend(std::as_writable_bytes(std::span(gradients->begins[0], gradients->begins[i])));
      s.inputs[i] = x;
      auto const y = Pass::forward_only ? outputs[i % 2] : pass.template allocate_own<T>(x.extent(1), true);
      auto const mark = pass.saved.mark();
      layers[i].forward(pass, p.layers[i], x, y, s.layers[i]);
      if (Pass::recomputes_layers || Pass::forward_only) pass.saved.release(mark);
      x = y;
      if constexpr (!Pass::forward_only) pass.hooks.result(first + index_t(i), false, x);
    }
    pass.saved.lend({});
    return x;
  }
  template <class Pass, class T>
  void backward(Pass& pass, parameters<T const> const& p, parameters<float> const& g, saved<T>& s,
                matrix_view<T> d) const {
    pass.hooks.result(first + index_t(layers.size()), true, d);
    for (std::size_t i = layers.size(); i-- > 0;) {
      comm::site const here("layer", first + index_t(i));
      pass.hooks.before_layer(index_t(i), true);
      auto const mark = pass.saved.mark();
      if (Pass::recomputes_layers) {
        auto const y = pass.template allocate_own<T>(d.extent(1), true);
        layers[i].forward(pass, p.layers[i], s.inputs[i], y, s.layers[i]);
      }
      layers[i].backward(pass, p.layers[i], g.layers[i], s.layers[i], d);
      pass.saved.release(mark);
      pass.hooks.result(first + index_t(i), true, d);
      pass.after_backward(index_t(i));
    }
  }
};

}  // namespace tenon::nn
