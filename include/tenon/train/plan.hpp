// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/parallel/footprint.hpp>
#include <tenon/train/trainer.hpp>

namespace tenon::train {

/// A trainer's line of types in numbers. @param options degrees that are `dynamic`, batch, micro-batches and length
template <class Trainer>
constexpr parallel::strategy strategy_of(typename Trainer::config_type const& config, train_options const& options) {
  using set = typename Trainer::set;
  auto const resolve = [](index_t in_types, int in_options) {
    return in_types == dynamic ? in_options : int(in_types);
  };
  parallel::strategy s;
  s.mesh = {resolve(set::data::degree, options.mesh.data), resolve(set::tensor::degree, options.mesh.tensor),
            resolve(set::context::degree, options.mesh.context), resolve(set::pipeline::degree, options.mesh.pipeline),
            resolve(set::expert::degree, options.mesh.expert)};
  s.zero = set::zero::stage;
  s.hybrid = int(set::zero::sharding::group);
  s.schedule = parallel::functions_of<typename set::pipeline::schedule>;
  s.sequence_parallel = !std::is_void_v<typename set::sequence>;
  s.recompute = set::memory::policy;
  s.state_in_file = memory::is_in_file<typename set::memory>;
  s.activations_in_file = memory::has_activations_in_file<typename set::memory>;
  s.value_bytes = sizeof(typename Trainer::value_type);
  s.optimizer_tensors = set::optimizer::state_tensors > 1 ? 2 : 1;
  s.whole_matrices = std::same_as<typename set::optimizer, optimizer::muon>;
  s.accumulate = options.accumulate;
  s.micro = options.batch / (s.groups() * s.accumulate);
  s.sequence_length = options.sequence_length ? options.sequence_length : config.context;
  s.token_leaf = set::arithmetic::token_leaf(s.sequence_length);
  return s;
}

}  // namespace tenon::train
