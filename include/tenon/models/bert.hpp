// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/models/check.hpp>
#include <tenon/nn/encoder.hpp>

namespace tenon {

/// The shape of a BERT.
/// @source Devlin et al. 2018, arXiv:1810.04805
struct bert_config {
  index_t layers = 0;
  index_t width = 0;
  index_t heads = 0;
  index_t hidden = 0;  ///< of the mlp
  index_t context = 0;
  index_t vocabulary = 30522;
  index_t types = 2;  ///< of tokens: of the first text, of the second
  float epsilon = 1e-12f;
  bool operator==(bert_config const&) const = default;
  /// Calls visit(name, value) for each field, in a fixed order.
  template <class Self, class Visit>
  static constexpr void for_each_field(Self& c, Visit&& visit) {
    visit("layers", c.layers), visit("width", c.width), visit("heads", c.heads), visit("hidden", c.hidden);
    visit("context", c.context), visit("vocabulary", c.vocabulary), visit("types", c.types);
    visit("epsilon", c.epsilon);
  }
};

namespace models {

/// BERT and those of its shape (MiniLM, BGE, E5): learned positions, LayerNorm behind each half of a layer, GELU.
/// Parameter names are those of the published checkpoints.
struct bert {
  using config_type = bert_config;

  static constexpr char const* problem(bert_config const& c) {
    if (char const* p = detail::shape_problem(c.layers, c.width, c.heads, c.heads, c.context, c.vocabulary)) return p;
    if (c.hidden < 1 || c.types < 1)
      return "tenon::models: hidden or types of a bert is below 1. Fix: both as the checkpoint's config says.";
    return nullptr;
  }
  static nn::encoder network(bert_config const& c) {
    nn::layer_norm const norm{c.width, true, c.epsilon};
    auto const linear = [](index_t in, char const* to, index_t out) { return nn::linear{in, {{to, out}}, true}; };
    nn::self_attention attention{.query_heads = int(c.heads),
                                 .kv_heads = int(c.heads),
                                 .head_width = int(c.width / c.heads),
                                 .causal = false};
    attention.qkv = {c.width, {{"self.query", c.width}, {"self.key", c.width}, {"self.value", c.width}}, true};
    attention.projection = linear(c.width, "output.dense", c.width);
    nn::mlp mlp{.activation = ops::activation_kind::gelu_erf};
    mlp.up = linear(c.width, "intermediate.dense", c.hidden);
    mlp.down = linear(c.hidden, "output.dense", c.width);
    nn::encoder net;
    net.embedding_name = "embeddings";
    net.words = {"word_embeddings", "position_embeddings", c.vocabulary, c.width, c.context};
    net.types = {"token_type_embeddings", "", c.types, c.width};
    net.norm_name = "LayerNorm";
    net.norm = norm;
    net.layers.name = "encoder.layer";
    net.layers.layers.assign(std::size_t(c.layers), {{"attention", "attention.output.LayerNorm", attention, norm},
                                                     {"", "output.LayerNorm", mlp, norm}});
    return net;
  }
};

}  // namespace models
}  // namespace tenon
