// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <string>

#include <tenon/models/check.hpp>
#include <tenon/nn/shape.hpp>
#include <tenon/nn/transformer.hpp>

namespace tenon {

/// The shape of a Llama. All zero: known at run time only.
/// @source Touvron et al. 2023, arXiv:2302.13971
struct llama_config {
  index_t layers = 0;
  index_t width = 0;
  index_t heads = 0;
  index_t kv_heads = 0;  ///< 0: as many as heads
  index_t hidden = 0;    ///< of the mlp; 0: 8/3 x width, rounded up to a multiple of 32
  index_t context = 0;
  index_t vocabulary = 32000;
  float rope_base = 10000;
  bool qkv_bias = false;  ///< Qwen 2 has them
  bool tied = false;
  float epsilon = 1e-5f;
  index_t window = 0;  ///< sliding window of Mistral; 0: none
  float dropout = 0;
  index_t head_width = 0;  ///< 0: width / heads
  bool head_norm = false;  ///< Qwen 3 normalises the heads of q and k
  bool operator==(llama_config const&) const = default;
  /// Calls visit(name, value) for each field, in a fixed order: what a checkpoint writes and compares.
  template <class Self, class Visit>
  static constexpr void for_each_field(Self& c, Visit&& visit) {
    visit("layers", c.layers), visit("width", c.width), visit("heads", c.heads), visit("kv_heads", c.kv_heads);
    visit("hidden", c.hidden), visit("context", c.context), visit("vocabulary", c.vocabulary);
    visit("rope_base", c.rope_base), visit("qkv_bias", c.qkv_bias), visit("tied", c.tied);
    visit("epsilon", c.epsilon), visit("window", c.window), visit("dropout", c.dropout);
    visit("head_width", c.head_width), visit("head_norm", c.head_norm);
  }
};

namespace models {

namespace detail {

template <class Config>
constexpr bool has_head_width(Config const& c) {
  if constexpr (requires { c.head_width; }) return c.head_width != 0;
  else return false;
}
template <class Config>
constexpr index_t head_width_of(Config const& c) {
  if constexpr (requires { c.head_width; })
    if (c.head_width) return c.head_width;
  return c.width / c.heads;
}
/// What is wrong with the shape of a Llama or of a model that shares its attention, or null.
template <class Config>
constexpr char const* llama_problem(Config const& c) {
  index_t const query_width = c.heads > 0 ? c.heads * head_width_of(c) : 0;
  if (char const* p = shape_problem(c.layers, has_head_width(c) ? query_width : c.width, c.heads,
                                    c.kv_heads ? c.kv_heads : c.heads, c.context, c.vocabulary))
    return p;
  if (head_width_of(c) % 2 != 0)
    return "tenon::models: the head width is odd; rotary positions turn pairs of features. Fix: an even width / "
           "heads.";
  return nullptr;
}
/// Of a gated mlp.
template <class Config>
constexpr index_t gated_hidden(Config const& c) {
  return c.hidden ? c.hidden : round_up(ceil_div(8 * c.width, 3), 32);
}
template <class Config>
constexpr nn::model_shape llama_shape(Config const& c) {
  nn::model_shape s{.layers = c.layers,
                    .width = c.width,
                    .query_heads = c.heads,
                    .kv_heads = c.kv_heads ? c.kv_heads : c.heads,
                    .head_width = head_width_of(c),
                    .hidden = gated_hidden(c),
                    .context = c.context,
                    .vocabulary = c.vocabulary,
                    .window = c.window,
                    .gated = true,
                    .qkv_bias = c.qkv_bias,
                    .tied = c.tied};
  if constexpr (requires { c.head_norm; }) s.head_norm = c.head_norm;
  return s;
}
/// The two linear layers of a gated mlp.
template <Arithmetic Order, class Config>
void gated_layers(Config const& c, char const* gate, char const* value, char const* out, nn::linear& up,
                  nn::linear& down) {
  index_t const hidden = gated_hidden(c);
  index_t const hidden_leaf = Order::feature_leaf(hidden);
  up = {c.width, {{gate, hidden}, {value, hidden}}, false, 0, {{hidden, hidden_leaf}, {hidden, hidden_leaf}}};
  down = {hidden, {{out, c.width}}, false, hidden_leaf, {}, residual_stddev(c.layers)};
}
/// Everything but the feed-forward blocks, which are all `inner`.
template <Arithmetic Order, class Network, class Config, class FeedForward>
Network llama_network(Config const& c, char const* inner_name, FeedForward const& inner) {
  index_t const head_width = head_width_of(c), query_width = c.heads * head_width,
                kv_heads = c.kv_heads ? c.kv_heads : c.heads;
  index_t const group_leaf = Order::head_leaf(kv_heads, head_width * (c.heads / kv_heads)),
                kv_leaf = Order::head_leaf(kv_heads, head_width);
  index_t const kv_width = kv_heads * head_width;
  Network net;
  net.embedding = {"model.embed_tokens", "", c.vocabulary, c.width, 0};
  net.embedding_dropout = c.dropout;
  net.layers.name = "model.layers";
  for (index_t i = 0; i < c.layers; ++i) {
    nn::self_attention attention{.query_heads = int(c.heads),
                                 .kv_heads = int(kv_heads),
                                 .head_width = int(head_width),
                                 .window = c.window,
                                 .rope = {c.rope_base, ops::rope_pairing::half}};
    attention.qkv = {c.width,
                     {{"q_proj", query_width}, {"k_proj", kv_width}, {"v_proj", kv_width}},
                     c.qkv_bias,
                     0,
                     {{query_width, group_leaf}, {kv_width, kv_leaf}, {kv_width, kv_leaf}}};
    if constexpr (requires { c.head_norm; })
      if (c.head_norm) attention.head_norm = nn::rms_norm{head_width, c.epsilon};
    attention.projection = {query_width, {{"o_proj", c.width}}, false, group_leaf, {}, residual_stddev(c.layers)};
    std::string const stream = "model.layers." + std::to_string(i);
    nn::rms_norm const norm{c.width, c.epsilon};
    net.layers.layers.push_back(
        {{"input_layernorm", "self_attn", norm, attention, c.dropout, stream + ".self_attn.dropout"},
         {"post_attention_layernorm", inner_name, norm, inner, c.dropout, stream + "." + inner_name + ".dropout"}});
  }
  net.final_norm_name = "model.norm";
  net.final_norm = {c.width, c.epsilon};
  net.tied = c.tied;
  net.head_name = "lm_head";
  return net;
}

}  // namespace detail

/// Llama, Qwen 2, Qwen 3 and Mistral shapes: RMSNorm, rotary positions, grouped queries, SwiGLU. `llama<>` takes its shape at
/// run time. Parameter names are those of the published checkpoints.
template <llama_config Config = llama_config{}>
struct llama {
  using config_type = llama_config;
  using network_type = nn::transformer<nn::rms_norm>;
  static constexpr char const* name = "llama";
  static constexpr llama_config config = Config;
  static constexpr bool is_static = Config != llama_config{};

  static constexpr char const* problem(llama_config const& c) { return detail::llama_problem(c); }
  /// What the planner knows of it.
  static constexpr nn::model_shape shape(llama_config const& c) { return detail::llama_shape(c); }
  template <Arithmetic Order>
  static network_type network(llama_config const& c);
};

template <llama_config Config>
template <Arithmetic Order>
typename llama<Config>::network_type llama<Config>::network(llama_config const& c) {
  nn::mlp mlp{.activation = ops::activation_kind::silu, .gated = true};
  detail::gated_layers<Order>(c, "gate_proj", "up_proj", "down_proj", mlp.up, mlp.down);
  return detail::llama_network<Order, network_type>(c, "mlp", mlp);
}

}  // namespace models
}  // namespace tenon
