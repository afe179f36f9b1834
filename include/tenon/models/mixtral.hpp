// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/models/llama.hpp>
#include <tenon/nn/moe.hpp>

namespace tenon {

/// The shape of a Mixtral, or of a mixture of Qwen 3. All zero: known at run time only.
/// @source Jiang et al. 2024, arXiv:2401.04088
struct mixtral_config {
  index_t layers = 0;
  index_t width = 0;
  index_t heads = 0;
  index_t kv_heads = 0;  ///< 0: as many as heads
  index_t hidden = 0;    ///< of an expert; 0: 8/3 x width, rounded up to a multiple of 32
  index_t context = 0;
  index_t vocabulary = 32000;
  index_t experts = 8;
  index_t experts_per_token = 2;
  float capacity_factor = 0;       ///< tokens that an expert takes, over an even share; 0: all that come
  float auxiliary_weight = 0.01f;  ///< of the loss that balances the experts
  float rope_base = 10000;
  bool qkv_bias = false;
  bool tied = false;
  float epsilon = 1e-5f;
  index_t window = 0;  ///< sliding window; 0: none
  float dropout = 0;
  index_t head_width = 0;  ///< 0: width / heads
  bool head_norm = false;  ///< Qwen 3 normalises the heads of q and k
  bool operator==(mixtral_config const&) const = default;
  /// Calls visit(name, value) for each field, in a fixed order: what a checkpoint writes and compares.
  template <class Self, class Visit>
  static constexpr void for_each_field(Self& c, Visit&& visit) {
    visit("layers", c.layers), visit("width", c.width), visit("heads", c.heads), visit("kv_heads", c.kv_heads);
    visit("hidden", c.hidden), visit("context", c.context), visit("vocabulary", c.vocabulary);
    visit("experts", c.experts), visit("experts_per_token", c.experts_per_token);
    visit("capacity_factor", c.capacity_factor), visit("auxiliary_weight", c.auxiliary_weight);
    visit("rope_base", c.rope_base), visit("qkv_bias", c.qkv_bias), visit("tied", c.tied);
    visit("epsilon", c.epsilon), visit("window", c.window), visit("dropout", c.dropout);
    visit("head_width", c.head_width), visit("head_norm", c.head_norm);
  }
};

namespace models {

/// Mixtral: Llama's attention, and a mixture of experts in place of the mlp. `mixtral<>` takes its shape at run time.
/// Parameter names are those of the published checkpoints.
template <mixtral_config Config = mixtral_config{}>
struct mixtral {
  using config_type = mixtral_config;
  using network_type = nn::transformer<nn::rms_norm, nn::moe>;
  static constexpr char const* name = "mixtral";
  static constexpr mixtral_config config = Config;
  static constexpr bool is_static = Config != mixtral_config{};

  static constexpr char const* problem(mixtral_config const& c) {
    if (char const* p = detail::llama_problem(c)) return p;
    if (c.experts_per_token < 1 || c.experts_per_token > c.experts)
      return "tenon::models: experts_per_token is not between 1 and experts. Fix: e.g. 2 of 8 experts.";
    if (!(c.capacity_factor >= 0) || !(c.auxiliary_weight >= 0))
      return "tenon::models: capacity_factor or auxiliary_weight is negative or not a number. Fix: 0 for none.";
    return nullptr;
  }
  /// What the planner knows of it.
  static constexpr nn::model_shape shape(mixtral_config const& c) {
    nn::model_shape s = detail::llama_shape(c);
    s.experts = s.held_experts = c.experts, s.experts_per_token = c.experts_per_token;
    return s;
  }
  template <Arithmetic Order>
  static network_type network(mixtral_config const& c) {
    nn::moe block{.experts = c.experts,
                  .slots = c.experts_per_token,
                  .capacity_factor = c.capacity_factor,
                  .auxiliary_weight = c.auxiliary_weight,
                  .router_name = "gate",
                  .experts_name = "experts"};
    detail::gated_layers<Order>(c, "w1", "w3", "w2", block.up, block.down);
    return detail::llama_network<Order, network_type>(c, "block_sparse_moe", block);
  }
};

}  // namespace models
}  // namespace tenon
