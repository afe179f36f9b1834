// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a model and a mesh cannot do together, as far as both are known from types. What is known at start-up only
/// is refused then, by what it concerns.
#include <tenon/nn/tensor_parallel.hpp>
#include <tenon/parallel/schedule.hpp>
#include <tenon/policy/set.hpp>

namespace tenon::train {

namespace detail {

// A degree that is known at start-up only is checked then.
constexpr int known(index_t degree) { return degree == dynamic ? 1 : int(degree); }

template <class Config>
concept HasExperts = requires(Config c) {
  c.experts;
};

template <class Config>
constexpr index_t kv_heads(Config const& c) {
  if constexpr (requires { c.kv_heads; })
    if (c.kv_heads) return c.kv_heads;
  return c.heads;
}
// Each rank gets leaves, and a multiple of the 16 features that a gradient's norm takes at a time.
constexpr bool can_share(index_t extent, index_t leaf, int ranks) {
  index_t const share = nn::share_of_ranks(extent, leaf, ranks);
  return share != 0 && share % lanes == 0;
}
template <class Order, class Config>
constexpr bool can_share_heads(Config const& c, int ranks) {
  index_t const heads = kv_heads(c), width = c.width / c.heads;
  return ranks == 1 || can_share(heads * width, Order::head_leaf(heads, width), ranks);
}
template <class Order, class Config>
constexpr bool can_share_features(Config const& c, int ranks) {
  return ranks == 1 || (can_share(c.vocabulary, Order::feature_leaf(c.vocabulary), ranks) &&
                        (c.hidden == 0 || can_share(c.hidden, Order::feature_leaf(c.hidden), ranks)));
}
template <class Config>
constexpr bool can_trade_heads(Config const& c, int tensor, int context) {
  return kv_heads(c) / tensor % context == 0;
}
template <class Config>
constexpr bool can_share_experts(Config const& c, int ranks) {
  if constexpr (HasExperts<Config>) return c.experts % ranks == 0;
  else return true;  // that there are none is another sentence
}

}  // namespace detail

/// Every rule that takes a model and policies to break. @test tests/negative/mesh
template <class Model, class Set>
consteval bool check_mesh() {
  using config_type = typename Model::config_type;
  constexpr int tensor = detail::known(Set::tensor::degree), context = detail::known(Set::context::degree),
                expert = detail::known(Set::expert::degree),
                stages = detail::known(Set::pipeline::degree) *
                         parallel::schedule_for<typename Set::pipeline::schedule>::chunks;
  static_assert(expert == 1 || detail::HasExperts<config_type>,
                "tenon::trainer: expert<N> with a model that has no experts; there is nothing to share out. "
                "Fix: data<N>, or a mixture such as tenon::models::mixtral.");
  static_assert(context == 1 || !detail::HasExperts<config_type>,
                "tenon::trainer: context<N> with a mixture of experts; capacity and balance are of whole sequences. "
                "Fix: data<N> or expert<N> in place of context<N>.");
  if constexpr (Model::is_static && Model::problem(Model::config) == nullptr) {
    using order = typename Set::arithmetic;
    constexpr auto config = Model::config;
    static_assert(config.layers >= stages,
                  "tenon::trainer: the model has fewer layers than the pipeline has stages; some would be empty. "
                  "Fix: a pipeline<N> of at most one stage a layer, counting interleaved<V> as V stages a rank.");
    static_assert(
        detail::can_share_heads<order>(config, tensor),
        "tenon::trainer: the KV heads do not come out even on the tensor ranks; each takes whole heads, and a "
        "multiple of 16 features. Fix: a tensor<N> that divides kv_heads.");
    static_assert(
        detail::can_share_features<order>(config, tensor),
        "tenon::trainer: the hidden features or the vocabulary have fewer leaves than there are tensor ranks; "
        "a leaf has at least 16. Fix: fewer tensor ranks, or at least 128 features.");
    static_assert(
        !std::same_as<typename Set::context::exchange, all_to_all> || detail::can_trade_heads(config, tensor, context),
        "tenon::trainer: the KV heads of a tensor rank do not come out even on the context ranks, which trade "
        "tokens for heads under all_to_all. Fix: context<N, ring>, or an N that divides the heads.");
    static_assert(detail::can_share_experts(config, expert),
                  "tenon::trainer: the experts do not come out even on the expert ranks. "
                  "Fix: an expert<N> that divides the experts.");
  }
  return true;
}

}  // namespace tenon::train
