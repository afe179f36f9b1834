// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cmath>
#include <string>

#include <tenon/models/llama.hpp>

namespace tenon {

/// The shape of a Gemma 3. All zero: known at run time only.
/// @source Gemma Team 2025, arXiv:2503.19786
struct gemma3_config {
  index_t layers = 0;
  index_t width = 0;
  index_t heads = 0;
  index_t kv_heads = 0;
  index_t head_width = 256;
  index_t hidden = 0;  ///< of the mlp
  index_t context = 0;
  index_t vocabulary = 262144;
  float rope_base = 1e6f;        ///< of layers that see everything
  float local_rope_base = 1e4f;  ///< of layers with a window
  index_t window = 512;
  index_t pattern = 6;  ///< every so many layers, one sees everything
  float epsilon = 1e-6f;
  bool operator==(gemma3_config const&) const = default;
  /// Calls visit(name, value) for each field, in a fixed order: what a checkpoint writes and compares.
  template <class Self, class Visit>
  static constexpr void for_each_field(Self& c, Visit&& visit) {
    visit("layers", c.layers), visit("width", c.width), visit("heads", c.heads), visit("kv_heads", c.kv_heads);
    visit("head_width", c.head_width), visit("hidden", c.hidden), visit("context", c.context);
    visit("vocabulary", c.vocabulary), visit("rope_base", c.rope_base), visit("local_rope_base", c.local_rope_base);
    visit("window", c.window), visit("pattern", c.pattern), visit("epsilon", c.epsilon);
  }
};

namespace models {

/// Gemma 3: RMSNorm before and behind each half of a layer and on each head, GeGLU, layers that mostly see a window, a
/// tied table scaled by sqrt(width). `gemma3<>` takes its shape at run time.
/// Parameter names are those of the published checkpoints; norm weights are the factor itself (those files hold it less 1).
template <gemma3_config Config = gemma3_config{}>
struct gemma3 {
  using config_type = gemma3_config;
  using network_type = nn::transformer<nn::rms_norm, nn::mlp, nn::sandwich>;
  static constexpr char const* name = "gemma3";
  static constexpr gemma3_config config = Config;
  static constexpr bool is_static = Config != gemma3_config{};

  static constexpr char const* problem(gemma3_config const& c) {
    if (char const* p =
            detail::shape_problem(c.layers, c.heads * c.head_width, c.heads, c.kv_heads, c.context, c.vocabulary))
      return p;
    if (c.width < 1 || c.hidden < 1 || c.head_width < 2 || c.head_width % 2 || c.pattern < 1)
      return "tenon::models: a gemma3's width, hidden or pattern is below 1, or its head_width is odd. Fix: all of "
             "them "
             "as the checkpoint's config says.";
    return nullptr;
  }
  template <Arithmetic Order>
  static network_type network(gemma3_config const& c) {
    index_t const query = c.heads * c.head_width, kv = c.kv_heads * c.head_width;
    index_t const group_leaf = Order::head_leaf(c.kv_heads, query / c.kv_heads),
                  kv_leaf = Order::head_leaf(c.kv_heads, c.head_width);
    nn::rms_norm const norm{c.width, c.epsilon};
    nn::mlp mlp{.activation = ops::activation_kind::gelu_tanh, .gated = true};
    detail::gated_layers<Order>(c, "gate_proj", "up_proj", "down_proj", mlp.up, mlp.down);
    network_type net;
    net.embedding = {"model.embed_tokens", "", c.vocabulary, c.width, 0, std::sqrt(float(c.width))};
    net.layers.name = "model.layers";
    for (index_t i = 0; i < c.layers; ++i) {
      bool const sees_all = (i + 1) % c.pattern == 0;
      nn::self_attention attention{.query_heads = int(c.heads),
                                   .kv_heads = int(c.kv_heads),
                                   .head_width = int(c.head_width),
                                   .window = sees_all ? 0 : c.window,
                                   .rope = {sees_all ? c.rope_base : c.local_rope_base, ops::rope_pairing::half},
                                   .head_norm = nn::rms_norm{c.head_width, c.epsilon}};
      attention.qkv = {c.width,
                       {{"q_proj", query}, {"k_proj", kv}, {"v_proj", kv}},
                       false,
                       0,
                       {{query, group_leaf}, {kv, kv_leaf}, {kv, kv_leaf}}};
      attention.projection = {query, {{"o_proj", c.width}}, false, group_leaf, {}, detail::residual_stddev(c.layers)};
      net.layers.layers.push_back(
          {{"input_layernorm", "self_attn", "post_attention_layernorm", norm, attention, norm},
           {"pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm", norm, mlp, norm}});
    }
    net.final_norm_name = "model.norm";
    net.final_norm = norm;
    return net;
  }
};

}  // namespace models
}  // namespace tenon
