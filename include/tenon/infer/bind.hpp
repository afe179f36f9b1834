// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file From a file to a model that runs: the network of its kind, bound to its weights, and a cache of the size asked.
#include <algorithm>
#include <concepts>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <tenon/comm/mesh.hpp>
#include <tenon/comm/self.hpp>
#include <tenon/infer/host_ops.hpp>
#include <tenon/infer/model_file.hpp>
#include <tenon/infer/runner.hpp>
#include <tenon/infer/scheduler.hpp>
#include <tenon/policy/arithmetic.hpp>
#include <tenon/policy/kv.hpp>

namespace tenon {

namespace models {
/// The model is of the kind that its file says.
struct any {};
}  // namespace models

struct engine_options {
  index_t longest = 0;       ///< tokens of a sequence; 0: the model's context, 8192 at most
  index_t cache_tokens = 0;  ///< of all sequences together; 0: four of the longest
  index_t token_budget = 512;
  index_t max_sequences = 64;
  index_t swap_tokens = 0;  ///< room for preempted sequences under preemption::swap
  bool keeps_prefixes = true;
  int threads = 0;  ///< 0: all processors
  /// A smaller model of the same vocabulary, that guesses the tokens of requests with `drafts`.
  std::filesystem::path draft_model{};
};

namespace infer {

struct bound_model {
  std::unique_ptr<runner> network;
  scheduler_options scheduling;
};

namespace detail {

template <class Model, Arithmetic Order, class Kv, comm::Communicator Ranks>
bound_model bind_as(exec::host_context& exec, model_file const& file, nn::weight_source& weights,
                    typename Model::config_type const& c, engine_options& settings, comm::mesh<Ranks>* mesh) {
  if (char const* const problem = Model::problem(c))
    throw file_error(file.path().string(), std::string("has a shape that cannot be: ") + problem);
  auto net = Model::template network<Order>(c);
  file.adapt(net);
  if (mesh && mesh->tensor.size() > 1) net.shard(mesh->tensor.rank(), mesh->tensor.size());
  if (settings.longest == 0) settings.longest = std::min<index_t>(c.context, 8192);
  if (settings.longest > c.context)
    throw argument_error("tenon::engine: longest is " + std::to_string(settings.longest) + ", and the model reads " +
                         std::to_string(c.context) + " tokens. Fix: at most those.");
  if (settings.cache_tokens == 0) settings.cache_tokens = 4 * settings.longest;
  using runner_type = network_runner<decltype(net), Order, typename Kv::element_type, Ranks>;
  using storage = typename runner_type::storage;
  index_t const page = Kv::page_tokens(settings.longest);
  auto const layers = runner_type::layers_of(net);
  auto const pages = storage::pages_for(layers, page,
                                        {.sequences = settings.max_sequences,
                                         .longest = settings.longest,
                                         .tokens = settings.cache_tokens,
                                         .step = settings.token_budget});
  storage cache(layers, page, pages);
  scheduler_options o{.token_budget = settings.token_budget,
                      .max_sequences = settings.max_sequences,
                      .page_tokens = page,
                      .groups = {},
                      .swap_pages = ceil_div(settings.swap_tokens, page),
                      .keeps_prefixes = settings.keeps_prefixes};
  for (int g = 0; g < cache.groups(); ++g) o.groups.push_back({pages[std::size_t(g)], cache.window(g)});
  return {std::make_unique<runner_type>(exec, std::move(net), weights, std::move(cache), mesh), std::move(o)};
}

}  // namespace detail

/// On a mesh every rank calls it and gets its part.
/// The model of a file, of the kind `Model` or of any. What `settings` leave open is filled in.
/// A program with several translation units may declare it `extern template` and compile each kind once.
/// @error file_error when the file is of another kind or does not hold the whole model; argument_error when the settings
/// do not fit it
template <class Model, Arithmetic Order, class Kv, comm::Communicator Ranks = comm::self>
bound_model bind_model(exec::host_context& exec, model_file const& file, nn::weight_source& weights,
                       engine_options& settings, comm::mesh<Ranks>* mesh = nullptr) {
  return with_model(file, [&]<class Kind>(Kind, auto const& c) -> bound_model {
    if constexpr (std::same_as<Model, models::any>) {
      return detail::bind_as<Kind, Order, Kv>(exec, file, weights, c, settings, mesh);
    } else {
      if constexpr (std::same_as<typename Model::config_type, typename Kind::config_type>)
        if (!Model::is_static || Model::config == c)
          return detail::bind_as<Model, Order, Kv>(exec, file, weights, c, settings, mesh);
      throw file_error(file.path().string(), std::string("is a ") + Kind::name + ", not a " + Model::name +
                                                 " of the shape that was compiled in. Fix: engine<models::any>, or a "
                                                 "file of that kind and shape.");
    }
  });
}

}  // namespace infer
}  // namespace tenon
