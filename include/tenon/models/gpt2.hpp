// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <string>

#include <tenon/core/error.hpp>
#include <tenon/models/check.hpp>
#include <tenon/nn/shape.hpp>
#include <tenon/nn/transformer.hpp>

namespace tenon {

/// The shape of a GPT-2. All zero: known at run time only.
/// @source Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"
struct gpt2_config {
  index_t layers = 0;
  index_t width = 0;
  index_t heads = 0;
  index_t context = 0;
  index_t vocabulary = 50304;  ///< 50257, padded to a multiple of 64 as the field does
  index_t hidden = 0;          ///< of the mlp; 0: 4 x width
  bool bias = true;
  bool tied = true;
  float dropout = 0;
  bool operator==(gpt2_config const&) const = default;
  /// Calls visit(name, value) for each field, in a fixed order: what a checkpoint writes and compares.
  template <class Self, class Visit>
  static constexpr void for_each_field(Self& c, Visit&& visit) {
    visit("layers", c.layers), visit("width", c.width), visit("heads", c.heads), visit("context", c.context);
    visit("vocabulary", c.vocabulary), visit("hidden", c.hidden), visit("bias", c.bias), visit("tied", c.tied);
    visit("dropout", c.dropout);
  }
};

namespace models {

/// GPT-2: learned positions, LayerNorm, GELU (tanh), one fused qkv projection. `gpt2<>` takes its shape at run time.
/// Parameter names are those of the published checkpoints; matrices are [out, in].
template <gpt2_config Config = gpt2_config{}>
struct gpt2 {
  using config_type = gpt2_config;
  using network_type = nn::transformer<nn::layer_norm>;
  static constexpr char const* name = "gpt2";
  static constexpr gpt2_config config = Config;
  static constexpr bool is_static = Config != gpt2_config{};

  /// What is wrong with a shape, or null.
  static constexpr char const* problem(gpt2_config const& c) {
    return detail::shape_problem(c.layers, c.width, c.heads, c.heads, c.context, c.vocabulary);
  }
  /// What the planner knows of it.
  static constexpr nn::model_shape shape(gpt2_config const& c) {
    return {.layers = c.layers,
            .width = c.width,
            .query_heads = c.heads,
            .kv_heads = c.heads,
            .head_width = c.width / c.heads,
            .hidden = c.hidden ? c.hidden : 4 * c.width,
            .context = c.context,
            .vocabulary = c.vocabulary,
            .positions = c.context,
            .one_qkv_piece = true,
            .qkv_bias = c.bias,
            .bias = c.bias,
            .norm_vectors = c.bias ? 2 : 1,
            .norm_statistics = 2,
            .tied = c.tied};
  }
  template <Arithmetic Order>
  static network_type network(gpt2_config const& c);
};

template <gpt2_config Config>
template <Arithmetic Order>
typename gpt2<Config>::network_type gpt2<Config>::network(gpt2_config const& c) {
  index_t const head_width = c.width / c.heads, hidden = c.hidden ? c.hidden : 4 * c.width;
  float const residual_stddev = detail::residual_stddev(c.layers);
  network_type net;
  net.embedding = {"wte", "wpe", c.vocabulary, c.width, c.context};
  net.embedding_dropout = c.dropout;
  net.layers.name = "h";
  for (index_t i = 0; i < c.layers; ++i) {
    index_t const head_leaf = Order::head_leaf(c.heads, head_width);
    nn::self_attention attention{.query_heads = int(c.heads), .kv_heads = int(c.heads), .head_width = int(head_width)};
    // One name in files, three pieces: a rank of tensor parallelism holds some heads of each.
    ops::k_piece const heads{c.width, head_leaf};
    attention.qkv = {c.width, {{"c_attn", 3 * c.width}}, c.bias, 0, {heads, heads, heads}};
    attention.projection = {c.width, {{"c_proj", c.width}}, c.bias, head_leaf, {}, residual_stddev};
    nn::mlp mlp{.activation = ops::activation_kind::gelu_tanh};
    mlp.up = {c.width, {{"c_fc", hidden}}, c.bias, 0, {{hidden, Order::feature_leaf(hidden)}}};
    mlp.down = {hidden, {{"c_proj", c.width}}, c.bias, Order::feature_leaf(hidden), {}, residual_stddev};
    std::string const stream = "h." + std::to_string(i);
    nn::layer_norm const norm{c.width, c.bias};
    net.layers.layers.push_back({{"ln_1", "attn", norm, attention, c.dropout, stream + ".attn.dropout"},
                                 {"ln_2", "mlp", norm, mlp, c.dropout, stream + ".mlp.dropout"}});
  }
  net.final_norm_name = "ln_f";
  net.final_norm = {c.width, c.bias};
  net.tied = c.tied;
  net.head_name = "lm_head";
  return net;
}

/// The 124M parameters of the smallest published GPT-2.
using gpt2_124m = gpt2<gpt2_config{.layers = 12, .width = 768, .heads = 12, .context = 1024}>;

}  // namespace models
}  // namespace tenon
