// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How many bytes a rank of a trainer holds, to the byte, before there is one: the buffers of `model_state` and what
/// a step keeps in its arenas, in constant evaluation as well as at run time (docs/decisions/0016-planner.md).
#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <tenon/comm/mesh.hpp>
#include <tenon/core/arena.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/nn/shape.hpp>
#include <tenon/parallel/gradient_tree.hpp>
#include <tenon/parallel/schedule.hpp>
#include <tenon/parallel/sharding.hpp>
#include <tenon/policy/memory.hpp>

namespace tenon::parallel {

/// A pipeline schedule as a value.
struct schedule_functions {
  int chunks = 1;
  int (*multiple)(int stages) = nullptr;
  program (*make)(int stages, int rank, int micro_batches) = nullptr;
  bool is_one_f_one_b = false, is_zero_bubble = false;
};
template <PipelineSchedule S>
inline constexpr schedule_functions functions_of{schedule_for<S>::chunks, schedule_for<S>::multiple, make_program<S>,
                                                 std::same_as<S, one_f_one_b>, std::same_as<S, zero_bubble>};

/// A line of types and the numbers of a run, as far as bytes and time depend on them.
struct strategy {
  comm::mesh_shape mesh{};
  int zero = 0;
  int hybrid = 1;  ///< ranks of a group that shares the state out; 1: all
  schedule_functions schedule = functions_of<one_f_one_b>;
  bool sequence_parallel = false;
  memory::recompute recompute = memory::recompute::nothing;
  bool state_in_file = false, activations_in_file = false;
  index_t value_bytes = 4;    ///< of a weight as blocks read it, and of an activation; 4: there is no second copy
  int optimizer_tensors = 2;  ///< fp32 values that an optimizer keeps for a parameter
  bool whole_matrices = false;
  index_t micro = 1;       ///< samples of a micro-batch of one rank
  index_t accumulate = 1;  ///< micro-batches of a rank in a step
  index_t sequence_length = 0;
  index_t token_leaf = 0;  ///< tokens of a leaf of weight gradients; 0: not cut

  constexpr int groups() const { return mesh.data * mesh.expert; }
  constexpr int replicas() const { return groups() * mesh.context; }
  /// Gradients are added over ranks after every micro-batch.
  constexpr bool eager() const { return zero >= 2 || mesh.context > 1 || mesh.expert > 1; }
  constexpr bool rounds() const { return value_bytes != 4; }
  constexpr index_t batch() const { return micro * accumulate * groups(); }
  constexpr index_t local_tokens() const { return micro * (sequence_length / mesh.context); }
  constexpr int shards(int ranks) const { return hybrid > 1 ? hybrid : ranks; }
};

/// Where a rank is.
struct rank_place {
  int pipeline = 0, tensor = 0, data = 0, expert = 0, context = 0;
};

/// Bytes of one rank by what they are for.
struct footprint {
  index_t weights = 0;      ///< as blocks read them; under zero<3> the share that the rank owns
  index_t gradients = 0;    ///< sums over micro-batches
  index_t optimizer = 0;    ///< its state, and fp32 weights where blocks read others
  index_t activations = 0;  ///< of all micro-batches that are under way at a time
  index_t buffers = 0;      ///< for communication: layers gathered, gradients not yet reduced
  index_t in_file = 0;      ///< of all these, what policies put into files
  /// Of parameters, gradients and optimizer: see trainer::state_bytes.
  constexpr index_t state() const { return weights + gradients + optimizer + buffers; }
  /// That memory must hold.
  constexpr index_t total() const { return state() + activations - in_file; }
};

namespace detail {

/// What arena allocates, as numbers.
class arena_count {
 public:
  constexpr void take(index_t bytes) {
    auto const n = index_t(arena::taken(std::size_t(bytes)));
    if (lent + n <= loan) return void(lent += n);
    used += n;
    highest = std::max(highest, used);
  }
  constexpr void lend(index_t bytes) { loan = bytes; }
  constexpr void end_loan() { loan = lent = 0; }
  constexpr arena_count mark() const { return *this; }
  constexpr void release(arena_count const& mark) { used = mark.used, lent = mark.lent; }
  constexpr index_t most() const { return highest; }

 private:
  index_t used = 0, highest = 0, lent = 0, loan = 0;
};

/// A stage of the pipeline on one rank.
class stage_count {
 public:
  constexpr stage_count(nn::model_shape const& whole, strategy const& with, rank_place const& where, int stage)
      : s(with), at(where), m(whole.part(where.tensor, with.mesh.tensor, with.mesh.expert)) {
    index_t const stages = index_t(with.mesh.pipeline) * with.schedule.chunks;
    first = whole.layers * stage / stages;
    layers = whole.layers * (stage + 1) / stages - first;
    has_embedding = first == 0, has_head = first + layers == whole.layers;
    tokens = with.local_tokens();
    own = with.sequence_parallel
              ? tokens * (where.tensor + 1) / with.mesh.tensor - tokens * where.tensor / with.mesh.tensor
              : tokens;
    received = with.sequence_parallel ? tokens / with.mesh.tensor : tokens;
  }

  // ---- model_state

  constexpr void add_state(footprint& f) const {
    index_t flat = 0, compact = 0, outside = 0, last = 0, table = 0;
    int const replicas = s.shards(s.replicas()), of_experts = s.shards(s.mesh.data);
    int const rank = (at.data * s.mesh.expert + at.expert) * s.mesh.context + at.context;
    auto const add = [&](nn::flat_bucket const& b, index_t times, bool experts = false) {
      int const count = experts ? of_experts : replicas, r = (experts ? at.data : rank) % count;
      stretch const range{0, b.size()};
      index_t const begin = bucket_cut(b.parts(), range, r, count, s.whole_matrices);
      last = bucket_cut(b.parts(), range, r + 1, count, s.whole_matrices) - begin;
      flat += times * b.size();
      compact += times * round_up(last, lanes);
    };
    nn::flat_bucket const tokens_table = m.token_table(), layer = m.layer(), own_experts = m.own_experts();
    bool const shared = m.tied && has_embedding;
    if (has_embedding) add(tokens_table, 1), table = round_up(last, lanes), add(m.position_table(), 1);
    add(layer, layers);
    if (own_experts.size()) add(own_experts, layers, true);
    if (has_head) add(m.final_norm(), 1);
    if (has_head && !shared) add(tokens_table, 1);
    // The two gradients of a table that is a head too are summed apart.
    bool const apart = shared && has_head && s.groups() * s.accumulate > 1;
    index_t const one = layer.size() + own_experts.size();
    outside = flat - layers * one;

    bool const spread = s.zero == 3 || (s.zero > 0 && s.rounds());
    index_t const master = fp32 * (spread ? compact : flat), state = fp32 * (s.zero == 0 ? flat : compact);
    index_t const kept = state * s.optimizer_tensors;
    if (s.zero == 3) {
      f.weights += master;
      f.buffers += s.value_bytes * (outside + by_turns(one));
      f.optimizer += kept;
    } else if (s.rounds()) {
      f.weights += s.value_bytes * flat;
      f.optimizer += kept + master;
    } else {
      f.weights += master;
      f.optimizer += kept;
    }
    if (s.state_in_file) f.in_file += kept + (s.zero == 3 || s.rounds() ? master : 0);
    index_t const flat_gradients = flat + (apart ? tokens_table.size() : 0);
    if (s.eager()) {
      f.buffers += fp32 * (flat_gradients - (s.zero >= 2 ? layers * one - by_turns(one) : 0));
      f.gradients += fp32 * (compact + (apart ? table : 0)) * buffers_of({0, s.accumulate, s.accumulate});
    } else {
      index_t const group = index_t(at.data) * s.mesh.expert + at.expert;
      f.gradients +=
          fp32 * flat_gradients * buffers_of({group * s.accumulate, s.accumulate, index_t(s.groups()) * s.accumulate});
    }
  }

  // ---- arenas

  /// Most bytes of the arenas of one micro-batch.
  constexpr index_t flight() const {
    arena_count a;
    if (has_embedding) values(a, own);
    else if (s.mesh.pipeline > 1) values(a, received);  // with one rank it is the output of the stage before
    index_t const one = m.layer().size() + m.own_experts().size();
    bool const lends = s.schedule.is_one_f_one_b && s.mesh.pipeline == 1 && s.zero < 2;
    for (index_t i = 0; i < layers; ++i) {
      if (lends) a.lend(i * one * fp32);
      values(a, own);
      auto const mark = a.mark();
      layer_forward(a);
      if (s.recompute == memory::recompute::whole_layers) a.release(mark);
    }
    a.end_loan();
    if (has_head) {
      values(a, tokens), statistics(a);
      a.take(fp32 * tokens);  // losses
    }
    values(a, has_head || s.mesh.pipeline == 1 ? own : received);  // the gradient
    if (s.recompute == memory::recompute::whole_layers) values(a, own), layer_forward(a);
    return a.most();
  }
  /// Bytes that a micro-batch keeps for weight gradients that are put off. In a mixture, when tokens are spread evenly.
  constexpr index_t deferred() const {
    arena_count a;
    if (has_head) norm_gradients(a);
    for (index_t i = 0; i < layers; ++i) {
      norm_gradients(a), norm_gradients(a);
      linear(a, m.width, m.qkv_width(), true), linear(a, m.query_width(), m.width, false);
      if (!m.experts) {
        linear(a, m.width, m.up_width(), true), linear(a, m.hidden, m.width, false);
        continue;
      }
      a.take(fp32 * tokens * m.experts), values(a, tokens);
      for (index_t e = 0; e < m.held_experts; ++e) {
        index_t const rows = ceil_div(slots(), m.held_experts);
        for (index_t cols : {m.hidden, m.width, m.width, m.up_width()}) a.take(s.value_bytes * rows * cols);
      }
    }
    if (has_embedding) values(a, own);
    return a.most();
  }

  nn::model_shape const& shape() const { return m; }
  index_t layers = 0, first = 0;
  bool has_embedding = false, has_head = false;

 private:
  static constexpr index_t fp32 = 4, number = sizeof(index_t);

  static constexpr index_t buffers_of(micro_batch_range r) { return index_t(gradient_turns(r).buffers); }
  /// Two buffers in which layers take turns.
  constexpr index_t by_turns(index_t layer) const { return std::min<index_t>(layers, 2) * layer; }
  constexpr bool keeps() const { return s.recompute != memory::recompute::cheap_parts; }
  constexpr index_t slots() const { return tokens * m.experts_per_token; }

  /// A matrix as wide as the model.
  constexpr void values(arena_count& a, index_t rows) const { a.take(s.value_bytes * rows * m.width); }
  constexpr void statistics(arena_count& a) const {
    for (int i = 0; i < m.norm_statistics; ++i) a.take(fp32 * own);
  }
  /// What a layer's forward leaves in the arena, in its order.
  constexpr void layer_forward(arena_count& a) const {
    index_t const v = s.value_bytes;
    values(a, own);  // between the two halves
    if (keeps()) values(a, own);
    statistics(a);
    a.take(v * tokens * m.qkv_width()), a.take(v * tokens * m.query_width());
    if (m.head_norm) a.take(v * tokens * m.qkv_width()), a.take(fp32 * tokens * (m.query_heads + m.kv_heads));
    a.take(fp32 * tokens * m.query_heads);
    if (keeps()) values(a, own);
    statistics(a);
    if (m.experts) return experts_forward(a);
    a.take(v * tokens * m.up_width());
    if (keeps()) a.take(v * tokens * m.hidden);
  }
  constexpr void experts_forward(arena_count& a) const {
    index_t const leaves = ceil_div(tokens, s.token_leaf ? s.token_leaf : tokens), v = s.value_bytes;
    bool const travel = s.mesh.expert > 1;
    a.take(fp32 * tokens * m.experts);
    a.take(number * slots()), a.take(fp32 * slots()), a.take(number * slots()), a.take(number * slots());
    a.take(number * (m.experts + 1)), a.take(number * s.micro * m.experts);
    a.take(number * m.experts * leaves);
    if (travel) a.take(number * (m.held_experts + 1)), a.take(number * slots()), a.take(number * slots());
    if (keeps() || travel) a.take(v * slots() * m.width);
    a.take(v * slots() * m.up_width()), a.take(v * slots() * m.width);
    if (keeps()) a.take(v * slots() * m.hidden);
  }
  constexpr void norm_gradients(arena_count& a) const {
    for (int i = 0; i < m.norm_vectors; ++i) a.take(fp32 * m.width);
  }
  /// @param outputs whether tensor ranks cut the outputs: then the input is gathered where tokens are cut
  constexpr void linear(arena_count& a, index_t in, index_t out, bool outputs) const {
    if (s.recompute != memory::recompute::nothing || (s.sequence_parallel && outputs))
      a.take(s.value_bytes * tokens * in);
    a.take(s.value_bytes * tokens * out);
  }

  strategy const& s;
  rank_place const& at;
  nn::model_shape m;
  index_t tokens = 0, own = 0, received = 0;
};

}  // namespace detail

/// For each chunk of a rank: how many micro-batches have an arena at a time.
constexpr std::vector<int> flights_of(program const& work, int rank, int stages, int chunks) {
  struct flight {
    int micro_batch = -1;
    bool owes_weights = false, owes_input = false;
  };
  std::vector<std::vector<flight>> all(static_cast<std::size_t>(chunks));
  auto const of = [&](int chunk, int micro_batch) -> flight& {
    auto& flights = all[std::size_t(chunk)];
    for (auto& f : flights)
      if (f.micro_batch == micro_batch) return f;
    for (auto& f : flights)
      if (f.micro_batch < 0) return f.micro_batch = micro_batch, f;
    flights.push_back({micro_batch});
    return flights.back();
  };
  auto const land = [](flight& f) {
    if (!f.owes_weights && !f.owes_input) f = {};
  };
  for (auto const& i : work) {
    if (i.what == action::exchange) {
      for (auto const& t : i.transfers) of(t.chunk, t.micro_batch);
      for (auto const& t : i.transfers)
        if (t.way == direction::send && t.what == payload::gradient) {
          flight& f = of(t.chunk, t.micro_batch);
          f.owes_input = false, land(f);
        }
      continue;
    }
    flight& f = of(i.chunk, i.micro_batch);
    if (i.what == action::backward || i.what == action::input_backward) {
      f.owes_weights = true, f.owes_input = rank + i.chunk > 0;
      if (stages == 1 && i.chunk + 1 < chunks) {
        flight& behind = of(i.chunk + 1, i.micro_batch);
        behind.owes_input = false, land(behind);
      }
    }
    if (i.what == action::backward || i.what == action::weight_backward) f.owes_weights = false, land(f);
  }
  std::vector<int> counts;
  for (auto const& flights : all) counts.push_back(int(flights.size()));
  return counts;
}

/// The bytes of one rank.
constexpr footprint footprint_of(nn::model_shape const& model, strategy const& s, rank_place const& at,
                                 std::vector<int> const& flights) {
  footprint f;
  for (int c = 0; c < s.schedule.chunks; ++c) {
    detail::stage_count const stage(model, s, at, c * s.mesh.pipeline + at.pipeline);
    stage.add_state(f);
    index_t const kept = flights[std::size_t(c)] * stage.flight();
    f.activations += kept + (s.schedule.is_zero_bubble ? flights[std::size_t(c)] * stage.deferred() : 0);
    if (s.activations_in_file) f.in_file += kept;
  }
  return f;
}
constexpr footprint footprint_of(nn::model_shape const& model, strategy const& s, rank_place const& at = {}) {
  auto const work = s.schedule.make(s.mesh.pipeline, at.pipeline, int(s.accumulate));
  return footprint_of(model, s, at, flights_of(work, at.pipeline, s.mesh.pipeline, s.schedule.chunks));
}

}  // namespace tenon::parallel
