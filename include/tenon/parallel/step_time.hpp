// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How long a training step takes and what it sends, by closed forms that are held to published tables
/// (docs/planning.md).
#include <algorithm>

#include <tenon/parallel/footprint.hpp>
#include <tenon/parallel/hardware.hpp>

namespace tenon::parallel {

/// Bytes that the busiest rank sends in a step, by what they are.
/// @test tests/parallel/plan_test.cpp, which compares the first two with what trainers have sent
struct step_traffic {
  double gradients = 0;   ///< sums over replicas
  double parameters = 0;  ///< gathered; under zero<0> the summed gradients
  double tensor = 0;      ///< activations and their gradients between ranks that share matrices
  double pipeline = 0;    ///< between stages
  double context = 0;     ///< keys, values and their gradients
  double expert = 0;      ///< rows on their way to experts and back
  constexpr double total() const { return gradients + parameters + tensor + pipeline + context + expert; }
};

/// What takes how long, in seconds. The parts make up `step`.
struct step_time {
  double products = 0;  ///< matrix products
  double memory = 0;    ///< what reads and writes activations without computing much
  double tensor = 0, pipeline = 0, context = 0, expert = 0;
  double bubble = 0;    ///< waiting for other stages
  double replicas = 0;  ///< gradients and parameters, as far as computation does not hide them
  double update = 0;
  double step = 0;
  /// The largest part.
  char const* bound() const {
    struct {
      double seconds;
      char const* name;
    } const parts[] = {{products, "products"}, {memory, "memory"},     {tensor, "tensor"},
                       {pipeline, "pipeline"}, {context, "context"},   {expert, "expert"},
                       {bubble, "bubble"},     {replicas, "replicas"}, {update, "update"}};
    return std::max_element(std::begin(parts), std::end(parts),
                            [](auto const& a, auto const& b) { return a.seconds < b.seconds; })
        ->name;
  }
};

/// Time that ranks wait, over the time that they compute: what `simulate` finds for the schedules, as closed forms. A
/// forward, an input gradient and a weight gradient take equally long.
/// @source Narayanan et al. 2021, arXiv:2104.04473, section 2.2; Qi et al. 2023, arXiv:2401.10241 (ZB-H1)
/// @test tests/parallel/plan_test.cpp
constexpr double bubble_of(strategy const& s) {
  double const idle = double(s.mesh.pipeline - 1) / double(s.accumulate);
  return s.schedule.is_zero_bubble ? idle / 3 : idle / s.schedule.chunks;
}

/// Operations of a step on all devices, of kernels that also compute what a causal mask hides: as papers count.
/// @source Narayanan et al. 2021, arXiv:2104.04473, appendix; Korthikanti et al. 2022, arXiv:2205.05198, appendix A
struct published_flops {
  double model = 0;     ///< without recomputation
  double hardware = 0;  ///< with it
  constexpr published_flops(nn::model_shape const& m, strategy const& s) {
    double const tokens = double(s.batch()) * double(s.sequence_length), layers = tokens * double(m.layers);
    double const scores = 4 * double(s.sequence_length) * double(m.query_width());
    double const forward = layers * (2 * m.layer_weights() + scores);
    model = 3 * (forward + tokens * m.head_flops());
    hardware = model;
    if (s.recompute == memory::recompute::whole_layers) hardware += forward;
  }
};

/// Bytes that attention's scores, their softmax and its dropout would take in a layer, and all else that a layer makes,
/// on each tensor rank, with values of two bytes. @source Korthikanti et al. 2022, arXiv:2205.05198, equations 1 to 4
/// @shape tokens = micro-batch x sequence length
struct published_activations {
  double rest = 0, scores = 0;
  constexpr published_activations(double tokens, double width, double heads, double sequence_length, int tensor,
                                  bool sequence_parallel)
      : rest(tokens * width * (sequence_parallel ? 34.0 / tensor : 10 + 24.0 / tensor)),
        scores(5 * tokens * heads * sequence_length / tensor) {}
};

namespace detail {

/// Elements of the stage of a pipeline that has most, as one rank holds them.
struct stage_elements {
  double all = 0, layer = 0, outside = 0;
  index_t layers = 0;
  constexpr stage_elements(nn::model_shape const& whole, strategy const& s) {
    auto const m = whole.part(0, s.mesh.tensor, s.mesh.expert);
    layer = double(m.layer().size() + m.own_experts().size());
    layers = ceil_div(whole.layers, index_t(s.mesh.pipeline));
    int const tables = s.mesh.pipeline > 1 || whole.tied ? 1 : 2;
    outside = double(tables * m.token_table().size() + m.position_table().size() + m.final_norm().size());
    all = outside + double(layers) * layer;
  }
};

}  // namespace detail

constexpr step_traffic traffic_of(nn::model_shape const& whole, strategy const& s) {
  detail::stage_elements const e(whole, s);
  auto const m = whole.part(0, s.mesh.tensor, s.mesh.expert);
  auto const others = [](int ranks) { return double(ranks - 1) / ranks; };
  double const micro_batches = double(s.accumulate), value = double(s.value_bytes), layers = double(e.layers),
               tokens = double(s.local_tokens()), width = double(m.width);
  int const replicas = s.replicas();
  step_traffic t;
  t.gradients = others(replicas) * 4 * e.all * (s.eager() ? micro_batches : 1);
  if (s.zero < 3) t.parameters = others(replicas) * (s.zero == 0 ? 4 : value) * e.all;
  // Outside of layers and in two buffers is what need not be gathered again.
  else t.parameters = others(replicas) * value * (e.all + (2 * micro_batches - 1) * (layers - 2) * e.layer);
  bool const again = s.recompute == memory::recompute::whole_layers;
  // A sum over tensor ranks: fp32 to the owner, and what it rounds back.
  t.tensor = others(s.mesh.tensor) * micro_batches * layers * (again ? 6 : 4) * tokens * width * (4 + value);
  if (s.mesh.pipeline > 1)
    t.pipeline =
        2 * micro_batches * s.schedule.chunks * value * tokens * width / (s.sequence_parallel ? s.mesh.tensor : 1);
  t.context = others(s.mesh.context) * micro_batches * layers * tokens * double(2 * m.kv_heads * m.head_width) *
              ((again ? 3 : 2) * value + 4) * s.mesh.context;
  t.expert = others(s.mesh.expert) * micro_batches * layers * tokens * double(m.experts_per_token) * width * value *
             (again ? 6 : 4);
  return t;
}

/// The time of a step. Products run at the hardware's efficiency; what is between them moves each activation one and a
/// half times. Traffic is hidden where every micro-batch has its own (zero<2>, zero<3>, context, expert), behind backwards;
/// what comes once a step is counted in full, though the last backward hides some of it.
constexpr step_time time_of(nn::model_shape const& whole, strategy const& s, hardware const& on) {
  auto const m = whole.part(0, s.mesh.tensor, s.mesh.expert);
  detail::stage_elements const e(whole, s);
  step_traffic const sent = traffic_of(whole, s);
  bool const again = s.recompute == memory::recompute::whole_layers;
  double const micro_batches = double(s.accumulate), tokens = double(s.local_tokens()), layers = double(e.layers),
               length = double(s.sequence_length), rate = on.flops * on.product_efficiency;
  // Ranks count tensor fastest, then context, expert, data and pipeline: a group that fits a node has its links.
  auto const seconds = [&](double bytes, index_t span, double messages) {
    bool const near = span <= on.node_devices;
    return bytes / (near ? on.link_bandwidth * on.link_efficiency : on.network_bandwidth) +
           (bytes > 0 ? messages * (near ? on.link_latency : on.network_latency) : 0);
  };
  step_time t;
  double const keys = on.writes_scores ? length : whole.keys_seen(length);
  double const passes = again ? 4 : 3;
  double const layer = tokens * (2 * m.layer_weights() + 4 * keys * double(m.query_width()));
  t.products = micro_batches * (passes * layers * layer + 3 * tokens * m.head_flops()) / rate;
  published_activations const moved(tokens, double(m.width), double(whole.query_heads), length, s.mesh.tensor,
                                    s.sequence_parallel);
  t.memory = micro_batches * layers * passes * 1.5 * (moved.rest + (on.writes_scores ? moved.scores : 0)) *
             double(s.value_bytes) / 2 / on.memory_bandwidth;
  index_t const model_ranks = index_t(s.mesh.tensor) * s.mesh.context * s.mesh.expert;
  double const calls = micro_batches * layers;
  t.tensor = seconds(sent.tensor, s.mesh.tensor, 12 * calls);
  t.context = seconds(sent.context, index_t(s.mesh.tensor) * s.mesh.context, 3 * calls * s.mesh.context);
  t.expert = seconds(sent.expert, model_ranks, 4 * calls);
  t.pipeline = seconds(sent.pipeline, s.mesh.size(), 2 * micro_batches * s.schedule.chunks) / 2;  // both ways at a time
  double const work = t.products + t.memory + t.tensor + t.context + t.expert + t.pipeline;
  t.bubble = work * bubble_of(s);
  double const hidden = s.eager() ? work * (passes - 1) / passes : 0;
  // A ring of all replicas, for every layer: a sum and a gathering, or under zero<3> two of these.
  double const rings = layers * (s.eager() ? micro_batches : 1) * (s.zero == 3 ? 3 : 2);
  t.replicas = std::max(
      0.0,
      seconds(sent.gradients + sent.parameters, model_ranks * s.mesh.data, rings * double(s.replicas() - 1)) - hidden);
  double const owned = e.all / (s.zero > 0 ? s.replicas() : 1);
  t.update = owned * (4 * (3 + 2 * s.optimizer_tensors) + double(s.value_bytes)) / on.memory_bandwidth;
  t.step = work + t.bubble + t.replicas + t.update;
  return t;
}

}  // namespace tenon::parallel
