// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a trainer needs and what it costs, known when it compiles.
#include <algorithm>
#include <concepts>
#include <type_traits>

#include <tenon/parallel/step_time.hpp>
#include <tenon/train/trainer.hpp>

namespace tenon {

inline namespace literals {
consteval index_t operator""_MiB(unsigned long long n) { return index_t(n) << 20; }
consteval index_t operator""_GiB(unsigned long long n) { return index_t(n) << 30; }
}  // namespace literals

/// The numbers of a run that a plan depends on; see train_options.
struct plan_options {
  index_t batch = 0;            ///< 0: one sequence for each micro-batch of each rank
  index_t accumulate = 0;       ///< 0: as many micro-batches as the pipeline has stages
  index_t sequence_length = 0;  ///< 0: the model's context
  comm::mesh_shape mesh{};      ///< degrees of the axes that are `dynamic` in the line of types
};

/// What is known of a run before it begins. @test tests/train/plan_test.cpp
struct run_plan {
  nn::model_shape model;
  parallel::strategy how;
  parallel::footprint bytes;          ///< of the rank that holds most
  parallel::step_traffic bytes_sent;  ///< in a step, by the busiest rank
  index_t parameters = 0;             ///< of the whole model
  index_t bytes_per_rank = 0;  ///< parameters, gradients, optimizer, activations and buffers, not scratch of kernels
  double flops = 0;            ///< of a step on all ranks: see trainer::step_flops

  constexpr parallel::step_time time_on(hardware const& on) const { return parallel::time_of(model, how, on); }
  /// Time that a rank waits for other stages, over the time that it computes.
  constexpr double bubble() const { return parallel::bubble_of(how); }
  /// Operations of a step, over what the devices could do meanwhile.
  constexpr double utilisation(hardware const& on) const {
    return flops / (time_on(on).step * double(how.mesh.size()) * on.flops);
  }
};

namespace train {

/// A trainer's line of types in numbers.
template <class Trainer>
constexpr parallel::strategy strategy_of(plan_options const& options, index_t context) {
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
  s.optimizer_tensors = set::optimizer::state_tensors;
  s.whole_matrices = std::same_as<typename set::optimizer, optimizer::muon>;
  s.accumulate = options.accumulate ? options.accumulate : s.mesh.pipeline;
  s.micro = options.batch ? options.batch / (s.groups() * s.accumulate) : 1;
  s.sequence_length = options.sequence_length ? options.sequence_length : context;
  s.token_leaf = set::arithmetic::token_leaf(s.sequence_length);
  return s;
}
/// The bytes of the rank that holds most. The first tensor rank has no less than others; of many replicas 16 are looked
/// at: others may have 16 values more in a bucket.
constexpr parallel::footprint fullest(nn::model_shape const& model, parallel::strategy const& s) {
  parallel::footprint most;
  parallel::rank_place at;
  for (int stage = 0; stage < s.mesh.pipeline; ++stage)
    for (int r = 0; r < std::min(16, s.replicas()); ++r) {
      at.pipeline = stage;
      at.context = r % s.mesh.context, at.expert = r / s.mesh.context % s.mesh.expert;
      at.data = r / s.mesh.context / s.mesh.expert;
      auto const f = parallel::footprint_of(model, s, at);
      if (f.total() > most.total()) most = f;
    }
  return most;
}

}  // namespace train

/// What a trainer needs for a run with these numbers. @param config of a model whose shape is known at run time only
template <class Trainer>
constexpr run_plan plan_for(plan_options const& options = {},
                            typename Trainer::config_type const& config = Trainer::model_type::config) {
  static_assert(
      requires { Trainer::model_type::shape(config); },
      "tenon::plan: the model gives no shape, so nothing is known of its memory. Fix: a static constexpr function "
      "shape(config) that returns an nn::model_shape, as models::gpt2 has.");
  auto const model = Trainer::model_type::shape(config);
  auto const s = train::strategy_of<Trainer>(options, config.context);
  auto const bytes = train::fullest(model, s);
  return {model,
          s,
          bytes,
          parallel::traffic_of(model, s),
          model.parameters(),
          bytes.total(),
          model.step_flops(double(s.batch()), double(s.sequence_length))};
}

/// The plan of a trainer whose shape and mesh are known: one sequence of the model's whole context for each micro-batch.
///
///     static_assert(tenon::plan<trainer>.bytes_per_rank <= 80_GiB);   // using namespace tenon::literals
template <class Trainer>
  requires(Trainer::model_type::is_static)
inline constexpr run_plan plan = plan_for<Trainer>();

namespace train {

// What a compiler prints when a trainer does not fit: the numbers, by name.
template <index_t>
struct needs_MiB {};
template <index_t>
struct has_MiB {};
template <index_t Weights, index_t Gradients, index_t Optimizer, index_t Activations, index_t Buffers>
struct weights_gradients_optimizer_activations_buffers_MiB {};
template <class Needs, class Has, class Of>
struct memory_of_a_rank;
template <index_t Needs, index_t Has, class Of>
struct memory_of_a_rank<needs_MiB<Needs>, has_MiB<Has>, Of> {
  static_assert(Needs <= Has,
                "tenon::fits: a rank of this trainer needs more memory than it is given; needs_MiB and has_MiB in this "
                "message say how much. Fix: a higher zero stage, memory::recompute_selective or recompute_full, more "
                "tensor or pipeline ranks, or fewer sequences in a micro-batch.");
  static constexpr bool fits = Needs <= Has;
};

}  // namespace train

/// A rank of the trainer needs at most `Bytes`. Where it needs more, it does not compile: the message has the numbers.
///
///     static_assert(tenon::fits<trainer, 80_GiB>());
template <class Trainer, index_t Bytes>
consteval bool fits() {
  constexpr auto mebibytes = [](index_t bytes) { return ceil_div(bytes, 1_MiB); };
  constexpr parallel::footprint f = plan<Trainer>.bytes;
  return train::memory_of_a_rank<train::needs_MiB<mebibytes(f.total())>, train::has_MiB<(Bytes >> 20)>,
                                 train::weights_gradients_optimizer_activations_buffers_MiB<
                                     mebibytes(f.weights), mebibytes(f.gradients), mebibytes(f.optimizer),
                                     mebibytes(f.activations), mebibytes(f.buffers)>>::fits;
}

}  // namespace tenon
