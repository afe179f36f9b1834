// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Compiles the trainers of one line of types.
#include <algorithm>
#include <string_view>

#include "lines.hpp"
#include "run.hpp"

namespace train_gpt {

inline tenon::models::gpt2<> model_of(tenon::gpt2_config const&) { return {}; }
inline tenon::models::llama<> model_of(tenon::llama_config const&) { return {}; }
inline tenon::models::mixtral<> model_of(tenon::mixtral_config const&) { return {}; }

inline char const* name_of(tenon::gpipe) { return "gpipe"; }
inline char const* name_of(tenon::one_f_one_b) { return "1f1b"; }
template <int V>
char const* name_of(tenon::interleaved<V>) {
  return "interleaved";
}
inline char const* name_of(tenon::zero_bubble) { return "zero_bubble"; }
template <index_t N>
char const* name_of(tenon::context<N, tenon::ring>) {
  return "ring";
}
template <index_t N>
char const* name_of(tenon::context<N, tenon::all_to_all>) {
  return "all_to_all";
}
template <index_t N>
char const* name_of(tenon::context<N, tenon::all_gather>) {
  return "all_gather";
}

template <class Set>
bool fits(arguments const& a) {
  auto const degree = [](index_t compiled, int asked) { return compiled == tenon::dynamic || compiled == asked; };
  auto const& m = a.mesh;
  return degree(Set::data::degree, m.data) && degree(Set::tensor::degree, m.tensor) &&
         degree(Set::context::degree, m.context) && degree(Set::pipeline::degree, m.pipeline) &&
         degree(Set::expert::degree, m.expert) && Set::zero::stage == a.zero &&
         !std::is_void_v<typename Set::sequence> == a.sequence_parallel &&
         (m.pipeline == 1 || name_of(typename Set::pipeline::schedule{}) == a.schedule) &&
         (m.context == 1 || name_of(typename Set::context{}) == a.exchange);
}

/// What would not compile: a mixture's router reads whole sequences.
template <class Set, class Model>
inline constexpr bool is_refused = !std::is_void_v<typename Set::sequence> && requires {
  Model::config.experts;
};

/// Adds the trainers of `Ps` on ranks of `World` to `lines`. @param communicator the World's name
template <class World, class... Ps>
bool add_line(char const* communicator_name, char const* policies) {
  using set = tenon::policies<World, Ps...>;
  static char const* const communicator = communicator_name;
  index_t const degrees[] = {set::data::degree, set::tensor::degree, set::context::degree, set::pipeline::degree,
                             set::expert::degree};
  lines<World>().push_back({policies, int(std::count(std::begin(degrees), std::end(degrees), tenon::dynamic)),
                            fits<set>, [](World& world, arguments const& a) {
                              return std::visit(
                                  [&](auto const& config) -> nlohmann::ordered_json {
                                    using model = decltype(model_of(config));
                                    using namespace tenon::precision;
                                    if constexpr (is_refused<set, model>)
                                      throw tenon::argument_error(a.model +
                                                                  ": sequence_parallel takes no mixture of experts. "
                                                                  "Fix: drop --sequence-parallel.");
                                    else
                                      return a.precision == fp32::name
                                                 ? run<model, fp32, Ps...>(world, config, a, communicator)
                                                 : run<model, bf16_mixed, Ps...>(world, config, a, communicator);
                                  },
                                  models().at(a.model));
                            }});
  return true;
}

}  // namespace train_gpt
