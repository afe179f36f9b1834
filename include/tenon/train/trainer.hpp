// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <bit>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <typeinfo>
#include <vector>

#include <tenon/comm/check.hpp>
#include <tenon/comm/mesh.hpp>
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
#include <tenon/comm/site.hpp>
#include <tenon/core/error.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/optim/loss_scale.hpp>
#include <tenon/optim/optimizer.hpp>
#include <tenon/parallel/model_state.hpp>
#include <tenon/parallel/receipt.hpp>
#include <tenon/parallel/schedule.hpp>
#include <tenon/policy/set.hpp>
#include <tenon/train/any_trainer.hpp>
#include <tenon/train/check.hpp>
#include <tenon/train/host_ops.hpp>
#include <tenon/train/options.hpp>

namespace tenon {

namespace train {
template <class Model, class... Ps>
consteval bool check_trainer() {
  static_assert(
      requires { typename Model::network_type; },
      "tenon::trainer: the first argument is no model. Fix: a type of tenon::models, e.g. tenon::models::gpt2_124m.");
  if constexpr (check_policies<Ps...>() && requires { typename Model::network_type; }) {
    check_available<policies<Ps...>>();
    check_mesh<Model, policies<Ps...>>();
    if constexpr (Model::is_static)
      static_assert(
          Model::problem(Model::config) == nullptr,
          "tenon::trainer: the model's shape does not fit together; Model::problem(Model::config) says where. "
          "Fix: widths that divide by heads, heads that divide by kv_heads, positive sizes.");
  }
  return true;
}
}  // namespace train

/// A complete trainer from one line of types: what (Model) and how (policies, one per axis, in any order).
///
///     tenon::trainer<tenon::models::gpt2_124m, tenon::precision::bf16_mixed> t{{.batch = 4}};
///     auto const result = t.step(tokens, targets);
///
/// @error argument_error names the option that does not fit   @test tests/train/trainer_test.cpp
template <class Model, class... Ps>
  requires(train::check_trainer<Model, Ps...>())
class trainer {
 public:
  using model_type = Model;
  using config_type = typename Model::config_type;
  using set = policies<Ps...>;
  using value_type = typename set::precision::param_type;
  using network_type = typename Model::network_type;
  using context_type = exec::host_context;
  using world_type = typename set::communicator;
  static constexpr bool is_alone = std::same_as<world_type, comm::self>;

  explicit trainer(train_options const& o) requires(is_alone&& Model::is_static) : trainer(Model::config, o) {}
  /// For a model whose shape is known at run time only, e.g. `models::gpt2<>`.
  trainer(config_type const& c, train_options const& o) requires is_alone : trainer(alone_world(), c, o) {}
  /// One of the ranks of `world`, which lives longer: each makes a trainer from the same numbers.
  trainer(world_type& world, train_options const& o) requires(Model::is_static) : trainer(world, Model::config, o) {}
  trainer(world_type& world, config_type const& c, train_options const& o)
      : shape(checked(c)), ranks(meeting(world, c, o), degrees(o.mesh)), settings(checked(c, o, ranks)),
        whole(Model::template network<typename set::arithmetic>(c)), net(part_of(whole, ranks)), exec(settings.threads),
        plan(make_plan(settings, ranks)),
        work(parallel::make_program<schedule>(ranks.pipeline.size(), ranks.pipeline.rank(), int(settings.accumulate))) {
    nn::binder<float const> describe(&whole_specs);
    whole.bind(describe);
    int const stages = ranks.pipeline.size() * chunks_per_rank;
    for (int c = 0; c < chunks_per_rank; ++c)
      parts.emplace_back(*this, c * ranks.pipeline.size() + ranks.pipeline.rank(), stages);
    if (std::same_as<typename set::context::exchange, ring> && ranks.context.size() > 1)
      ring_stream.emplace(ranks.context);
    lay_out_samples();
  }
  trainer(trainer const&) = delete;
  trainer& operator=(trainer const&) = delete;

  /// One step on `batch` sequences. Every rank is given the whole batch and works on its part; all return the same.
  /// @shape tokens, targets [batch x sequence_length], a negative target is not counted
  step_result step(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets) {
    check_batch(tokens, targets);
    ++steps_done;
    comm::site const here("step", steps_done);
    if (receipts) receipts->begin(steps_done, exec.pool(), tokens, targets);
    step_result r{.step = steps_done};
    for (auto t : targets) r.targets += t >= 0;
    if (r.targets == 0)
      throw argument_error(
          "tenon::trainer: no target in the batch is to be predicted. Fix: at least one target that is not negative.");
    float const inverse = 1.0f / float(r.targets);
    float const scale = set::precision::scales_loss ? scaler.scale * inverse : inverse;
    sums = {};
    for (auto const& i : work) run(i, tokens, targets, scale);
    for (auto& p : parts) p.model.finish_gradients();
    add_shared_table();
    for (auto& p : parts) p.model.add_squares(sums.squares);
    samples_done += settings.batch;
    r.loss = mean(sums.loss, r.targets);
    r.auxiliary_loss = mean(sums.auxiliary, settings.batch);
    apply(comm::norm(comm::all_reduce<comm::world_axis>(ranks, sums.squares)), r);
    if (receipts) receipts->finish(ranks.world);
    return r;
  }

  /// Mean loss over the targets, in nats; nothing is changed. Every rank is given all sequences. @shape as `step`, any
  /// number of whole sequences
  double evaluate(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets) {
    auto const length = settings.sequence_length, samples = index_t(tokens.size()) / length;
    if (index_t(tokens.size()) != samples * length || samples < 1 || targets.size() != tokens.size())
      throw argument_error("tenon::trainer::evaluate: " + std::to_string(tokens.size()) + " tokens and " +
                           std::to_string(targets.size()) + " targets are no whole number of sequences. " +
                           "Fix: sequences of " + std::to_string(length) + " tokens.");
    check_tokens(tokens);
    sum_of_rank sum;
    for (index_t round = 0; round < samples; round += plan.groups * plan.micro) {
      // Passes are collective: all ranks go through equally many samples, and count those that are theirs.
      index_t const first = round + plan.group * plan.micro, count = std::min(plan.micro, samples - round);
      index_t const begin = std::min(first, samples - count),
                    end = std::max(first, std::min(first + plan.micro, samples));
      forward_losses(own_tokens(tokens, begin, count), own_tokens(targets, begin, count), count,
                     (first - begin) * local_length(), (end - begin) * local_length(), sum);
    }
    index_t counted = 0;
    for (auto t : targets) counted += t >= 0;
    return mean(sum, counted);
  }

  /// The logits behind the last of up to `context` tokens, on every rank. @shape tokens [t], logits [vocabulary]
  void next_logits(std::span<std::int32_t const> tokens, std::span<float> logits) {
    check_tokens(tokens);
    if (tokens.empty() || index_t(tokens.size()) > shape.context || index_t(logits.size()) != shape.vocabulary)
      throw argument_error("tenon::trainer::next_logits: needs 1 to " + std::to_string(shape.context) +
                           " tokens and room for " + std::to_string(shape.vocabulary) + " logits.");
    index_t const n = index_t(tokens.size());
    all_logits(tokens, n, n - 1, matrix(logits.data(), 1, shape.vocabulary));
  }

  /// Logits of every position, on every rank. @shape tokens [n x sequence_length], logits [n x sequence_length, vocabulary]
  void all_logits(std::span<std::int32_t const> tokens, matrix_view<float> logits) {
    check_tokens(tokens);
    all_logits(tokens, settings.sequence_length, 0, logits);
  }
  /// Gradients as the last step left them (scaled by the loss scale under fp16); the layout of `parameter_list`.
  std::span<float const> last_gradients() const requires is_alone { return parts[0].model.last_gradients(); }

  config_type const& config() const { return shape; }
  train_options const& options() const { return settings; }
  network_type const& network() const { return net; }
  context_type& context() { return exec; }
  /// Records from here on what this rank computes and communicates; null: no more, before `r` goes away.
  void record(profile::rank_recorder* r) {
    exec.profiler = r ? &r->computation : nullptr;
    ranks.record(r ? &r->communication : nullptr);
    for (auto& p : parts) p.model.record(r);
    if (r) r->rank = ranks.world.rank();
  }
  /// Writes down from here on a receipt of each step, beginning with the state as it is; null: no more, before `r` goes
  /// away. What is loaded later would be found changed. Every rank calls it.
  /// @error memory_changed from `step`, on every rank: see receipt::recorder::finish
  void record_receipts(receipt::recorder* r) {
    receipts = r;
    if (r) {
      std::vector<std::string> names;
      for (auto const& s : whole_specs) names.push_back(s.name);
      r->reset(std::move(names));
    }
    for (auto& p : parts) p.model.record_receipts(r);
    if (!r) return;
    r->begin(steps_done);
    for (auto& p : parts) p.model.hash_state();
    r->finish(ranks.world);
  }
  comm::mesh<world_type>& mesh() { return ranks; }
  /// The parameters of the whole model, wherever they are.
  std::span<parameter_spec const> parameter_list() const { return whole_specs; }
  index_t parameter_count() const {
    index_t n = 0;
    for (auto const& s : parameter_list()) n += s.size();
    return n;
  }
  /// Bytes of parameters, gradients and optimizer state that this rank holds, once it has made a step.
  std::size_t state_bytes() const {
    std::size_t n = 0;
    for (auto const& p : parts) n += p.model.bytes();
    return n;
  }
  /// Most bytes that activations took at a time in the arenas of micro-batches, what was lent to them left out.
  std::size_t activation_bytes() const {
    std::size_t n = 0;
    for (auto const& p : parts)
      for (auto const& f : p.flights) n += f.memory.high_water() + f.deferred.memory.high_water();
    return n;
  }
  index_t steps() const { return steps_done; }
  /// Sequences trained on so far: the position in the data.
  index_t samples() const { return samples_done; }
  double step_flops() const { return whole.step_flops(double(settings.batch), double(settings.sequence_length)); }
  /// Times that memory was asked from the system: constant after the first step.
  std::size_t system_allocations() {
    std::size_t n = exec.scratch().system_allocations();
    for (auto const& p : parts)
      for (auto const& f : p.flights) n += f.memory.system_allocations();
    return n;
  }

  /// Calls f(there, values, n) for what this rank owns of a parameter of the whole model: n values that are its elements
  /// from number `there` on. Over all ranks, each element is visited once.
  void for_each_owned(state_kind kind, parameter_spec const& spec, train::owned_visitor const& f) {
    for (auto& p : parts) p.model.for_each_owned(kind, spec.name, f);
  }
  /// One parameter of the whole model, or its optimizer state, on every rank: a collective. @shape out [spec.size()]
  void read(state_kind kind, parameter_spec const& spec, std::span<float> out) {
    train::read_owned(
        ranks.world, [&](train::owned_visitor const& f) { for_each_owned(kind, spec, f); }, out);
  }
  /// Sets one; `restored()` comes after the last. @shape values [spec.size()]
  void write(state_kind kind, parameter_spec const& spec, std::span<float const> values) {
    for (auto& p : parts)
      p.model.for_each_held(kind, spec.name,
                            [&](index_t there, float* to, index_t n) { std::copy_n(values.data() + there, n, to); });
  }
  /// All of them, one after the other: a collective.
  std::vector<float> values(state_kind kind = state_kind::parameters) {
    std::vector<float> all;
    for (auto const& spec : parameter_list()) {
      all.resize(all.size() + std::size_t(spec.size()));
      read(kind, spec, std::span(all).last(std::size_t(spec.size())));
    }
    return all;
  }
  /// What else a checkpoint holds.
  struct progress_view {
    optim::loss_scale& scaler;
    index_t& steps;
    index_t& samples;
  };
  progress_view progress() { return {scaler, steps_done, samples_done}; }
  void restored() {
    for (auto& p : parts) p.model.restored();
  }

 private:
  /// What one rank adds to a number of the step.
  using sum_of_rank = comm::placed<exact_sum, comm::partial<comm::world_axis>>;
  using rank_state = parallel::model_state<set, network_type, world_type, context_type>;
  using pass_type = nn::pass<context_type, typename set::arithmetic, typename set::memory, typename rank_state::hooks,
                             world_type, !std::is_void_v<typename set::sequence>>;

  using schedule = typename set::pipeline::schedule;
  static constexpr int chunks_per_rank = parallel::schedule_for<schedule>::chunks;

  /// A micro-batch on its way through a stage: from its forward until all gradients are made and the input's is sent.
  struct flight {
    arena memory;
    typename network_type::template saved<value_type> saved;
    matrix_view<value_type> input, gradient;  ///< from the stage before, and back to it
    matrix_view<value_type const> output;
    nn::deferred_gradients<context_type> deferred;
    float* gradients_begin = nullptr;  ///< when weight gradients were put off
    bool owes_weights = false, owes_input = false;
    index_t micro_batch = none;
    static constexpr index_t none = -1;
  };
  /// A stage of the pipeline that this rank holds, and what is under way in it.
  struct part {
    part(trainer& t, int stage, int stages)
        : net(t.net.stage(first_layer(t, stage, stages),
                          first_layer(t, stage + 1, stages) - first_layer(t, stage, stages))),
          model(t.exec, net, t.ranks, t.plan, t.settings.seed, t.settings.offload_folder),
          offload_folder(t.settings.offload_folder) {}
    static index_t first_layer(trainer const& t, int stage, int stages) { return t.shape.layers * stage / stages; }
    /// The flight of a micro-batch; a new one when there is none.
    flight& of(index_t micro_batch) {
      for (auto& f : flights)
        if (f.micro_batch == micro_batch) return f;
      for (auto& f : flights)
        if (f.micro_batch == flight::none) return f.micro_batch = micro_batch, f;
      flight& made = flights.emplace_back();
      if constexpr (memory::has_activations_in_file<typename set::memory>)
        made.memory.take_blocks_from([this](std::size_t bytes) { return file_block(bytes, offload_folder); });
      made.micro_batch = micro_batch;
      return made;
    }
    /// Ends a flight, unless something is left to do.
    void land(flight& f) {
      if (f.owes_weights || f.owes_input) return;
      f.memory.release({});
      f.input = f.gradient = {}, f.output = {};
      f.micro_batch = flight::none;
    }
    network_type net;
    rank_state model;
    std::string const& offload_folder;
    std::deque<flight> flights;
  };
  /// Where tokens lie in their sequences.
  struct layout {
    std::span<index_t const> positions, begins;
    index_t sequence_length;
    bool cut = true;  ///< over the context ranks
  };

  static world_type& alone_world() requires is_alone {
    static world_type world;
    return world;
  }
  /// All ranks of `world` have come, with the same trainer, compiler and numbers.
  /// @error error(comm_failed) that names the rank that has not, or has others
  static world_type& meeting(world_type& world, config_type const& c, train_options const& o) {
    if (world.size() == 1) return world;
    comm::wait_for_all(world);
#if defined(__VERSION__)
    comm::check_same(world, "compiler", __VERSION__);
#endif
    comm::check_same(world, "line of types", typeid(trainer).name());
    std::string numbers;
    auto const add = [&](char const* name, auto value) {
      numbers.append(numbers.empty() ? "" : ", ").append(name).append(" ").append(std::to_string(value));
    };
    config_type::for_each_field(c, add);
    add("batch", o.batch), add("accumulate", o.accumulate), add("sequence_length", o.sequence_length);
    add("learning_rate", o.learning_rate), add("warmup_steps", o.schedule.warmup_steps);
    add("total_steps", o.schedule.total_steps), add("clip", o.clip), add("seed", o.seed);
    comm::check_same(world, "model and options", numbers + ", mesh " + to_string(o.mesh));
    return world;
  }
  /// The degrees of the line of types, the `dynamic` ones as the options say.
  static comm::mesh_shape degrees(comm::mesh_shape const& asked) {
    auto const resolve = [&](index_t in_types, int in_options, char const* axis) {
      if (in_types == dynamic) return in_options;
      if (in_options != 1 && in_options != in_types)
        throw argument_error("tenon::trainer: the mesh asks for " + std::string(axis) + "=" +
                             std::to_string(in_options) + ", but the trainer was compiled with " + axis + "<" +
                             std::to_string(in_types) + ">. Fix: that degree, or " + axis +
                             "<dynamic> in the line of types.");
      return int(in_types);
    };
    return {resolve(set::data::degree, asked.data, "data"), resolve(set::tensor::degree, asked.tensor, "tensor"),
            resolve(set::context::degree, asked.context, "context"),
            resolve(set::pipeline::degree, asked.pipeline, "pipeline"),
            resolve(set::expert::degree, asked.expert, "expert")};
  }
  static network_type part_of(network_type part, comm::mesh<world_type> const& ranks) {
    if (ranks.tensor.size() > 1) part.shard(ranks.tensor.rank(), ranks.tensor.size());
    if (ranks.expert.size() > 1) part.shard_experts(ranks.expert.rank(), ranks.expert.size());
    return part;
  }
  /// Gradients are added over ranks after every micro-batch.
  static bool reduces_at_once(comm::mesh<world_type> const& ranks) {
    return set::zero::stage >= 2 || ranks.context.size() > 1 || ranks.expert.size() > 1;
  }
  static parallel::sample_plan make_plan(train_options const& o, comm::mesh<world_type> const& ranks) {
    int const groups = ranks.batch.size();
    return {o.batch / (groups * o.accumulate), o.accumulate, groups, ranks.batch.rank(), reduces_at_once(ranks)};
  }

  static config_type checked(config_type const& c) {
    if (char const* p = Model::problem(c)) throw error(errc::bad_config, p);
    return c;
  }
  static train_options checked(config_type const& c, train_options o, comm::mesh<world_type> const& ranks) {
    auto const fail = [](std::string const& what) { throw argument_error("tenon::trainer: " + what); };
    if (o.sequence_length == 0) o.sequence_length = c.context;
    if (o.sequence_length < 1 || o.sequence_length > c.context)
      fail("sequence_length is " + std::to_string(o.sequence_length) + ". Fix: 1 to the model's context, " +
           std::to_string(c.context) + ".");
    index_t const groups = ranks.batch.size(), parts = groups * o.accumulate;
    std::string const cut =
        (groups > 1 ? std::to_string(groups) + " ranks x " : "") + "accumulate " + std::to_string(o.accumulate);
    if (o.batch < 1 || o.accumulate < 1 || o.batch % parts != 0)
      fail("batch " + std::to_string(o.batch) + " is not a multiple of " + cut + ". Fix: a batch that divides.");
    auto const is_power_of_two = [](index_t n) { return (n & (n - 1)) == 0; };
    index_t const micro = o.batch / parts;
    if (parts > 1 && !is_power_of_two(micro))
      fail("a micro-batch of " + std::to_string(micro) + " sequences (batch " + std::to_string(o.batch) + " over " +
           cut + ") is no node of the summation tree. Fix: a batch or accumulate that leave a power of two.");
    if (int const n = ranks.context.size(); n > 1 && micro != 1)
      fail("a micro-batch of " + std::to_string(micro) + " sequences (batch " + std::to_string(o.batch) + " over " +
           cut + ") with context=" + std::to_string(n) + ", whose ranks hold parts of one sequence. Fix: accumulate " +
           std::to_string(o.batch / groups) + ".");
    if (reduces_at_once(ranks) && o.accumulate > 1 && !is_power_of_two(groups * micro))
      fail("zero<2>, zero<3>, context and expert add gradients over ranks before they accumulate, and the " +
           std::to_string(groups * micro) +
           " sequences of a micro-batch on all ranks are no node of the summation tree. "
           "Fix: a power of two, accumulate 1, or zero<1> without context and expert.");
    if (int const n = ranks.expert.size(); n > 1 && ranks.data.size() > 1 && !is_power_of_two(n * micro))
      fail("expert=" + std::to_string(n) + " brings " + std::to_string(n * micro) +
           " sequences to each expert, which is no node of the summation tree. Fix: expert a power of two, or data=1.");
    if (index_t const stages = index_t(ranks.pipeline.size()) * chunks_per_rank; c.layers < stages)
      fail(std::to_string(c.layers) + " layers are fewer than the " + std::to_string(stages) +
           " stages of the pipeline. Fix: at most one stage per layer.");
    index_t const tensor = ranks.tensor.size(), leaf = set::arithmetic::token_leaf(o.sequence_length);
    if (index_t const tokens = micro * o.sequence_length / ranks.context.size();
        pass_type::cuts_tokens && (tokens % (tensor * leaf) != 0 || !is_power_of_two(tokens / (tensor * leaf))))
      fail("sequence_parallel cuts a micro-batch of " + std::to_string(tokens) + " tokens in leaves of " +
           std::to_string(leaf) + " over " + std::to_string(tensor) +
           " ranks, and what a rank gets is no node of the summation tree. Fix: a power of two of sequences in a "
           "micro-batch, as many as there are tensor ranks, or longer sequences, which have more leaves.");
    if (!(o.learning_rate >= 0)) fail("learning_rate is negative or not a number. Fix: a rate such as 6e-4.");
    if (o.threads == 0) o.threads = std::max(1, int(std::thread::hardware_concurrency()) / ranks.world.ranks_here());
    if (o.threads < 1 || o.threads > 1024)
      fail("threads is " + std::to_string(o.threads) + ". Fix: 1 to 1024, or 0 for one per processor.");
    return o;
  }

  /// Tokens of each sequence that this rank holds.
  index_t local_length() const { return settings.sequence_length / ranks.context.size(); }
  index_t micro_tokens() const { return plan.micro * local_length(); }

  void lay_out_samples() {
    index_t const length = local_length(), first = ranks.context.rank() * length;
    positions.resize(std::size_t(micro_tokens()));
    for (std::size_t t = 0; t < positions.size(); ++t) positions[t] = first + index_t(t) % length;
    for (index_t s = 0; s <= plan.micro; ++s) begins.push_back(s * length);
  }
  layout layout_of(index_t samples) const {
    return {std::span(positions).first(std::size_t(samples * local_length())),
            std::span(begins).first(std::size_t(samples) + 1), settings.sequence_length};
  }
  pass_type make_pass(part& p, flight& f, layout const& where) {
    pass_type pass{exec,  f.memory,      where.positions,           where.begins, where.sequence_length,
                   0,     settings.seed, std::uint64_t(steps_done), false,        {&p.model},
                   &ranks};
    pass.cuts_sequences = where.cut;
    if constexpr (memory::has_activations_in_file<typename set::memory>) pass.hooks.offloaded = &f.memory;
    using exchange = typename set::context::exchange;
    if constexpr (std::same_as<exchange, all_to_all>) pass.exchange = nn::context_exchange::all_to_all;
    else if constexpr (std::same_as<exchange, all_gather>) pass.exchange = nn::context_exchange::all_gather;
    else if (ring_stream) pass.context_stream = &*ring_stream;
    return pass;
  }
  pass_type training_pass(part& p, flight& f, float sequence_scale) {
    auto pass = make_pass(p, f, layout_of(plan.micro));
    pass.training = pass.hooks.writes_gradients = true;
    pass.first_sample = std::uint64_t(samples_done + plan.number(f.micro_batch) * plan.micro);
    pass.auxiliary_scale = sequence_scale;
    pass.auxiliary_loss = counts_losses() ? &sums.auxiliary.local() : nullptr;
    return pass;
  }
  /// The tokens of a micro-batch that are this rank's, of all that a step has.
  std::span<std::int32_t const> of_micro_batch(std::span<std::int32_t const> all, index_t micro_batch) const {
    return own_tokens(all, plan.number(micro_batch) * plan.micro, plan.micro);
  }
  /// This rank's tokens of samples [first, first + count): where sequences are cut, count is 1.
  std::span<std::int32_t const> own_tokens(std::span<std::int32_t const> all, index_t first, index_t count) const {
    index_t const begin = first * settings.sequence_length + ranks.context.rank() * local_length();
    return all.subspan(std::size_t(begin), std::size_t(count * local_length()));
  }

  // ---- what a schedule consists of

  void run(parallel::instruction const& i, std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets,
           float scale) {
    if (i.what == parallel::action::exchange) return exchange(i);
    static constexpr char const* names[] = {"forward", "backward", "input backward", "weight backward"};
    profile::range const running(exec.profiler, names[int(i.what)]);
    auto const m = index_t(i.micro_batch);
    comm::site const here(names[int(i.what)], m);
    if (receipts) receipts->micro_batch = plan.number(m), receipts->is_first_of_step = m == 0;
    if (i.what == parallel::action::forward) return forward(i.chunk, m, of_micro_batch(tokens, m));
    if (i.what != parallel::action::weight_backward)
      backward(i.chunk, m, of_micro_batch(tokens, m), of_micro_batch(targets, m), scale,
               i.what == parallel::action::input_backward);
    if (i.what != parallel::action::input_backward) finish_weights(i.chunk, m);
  }
  void forward(int chunk, index_t micro_batch, std::span<std::int32_t const> tokens) {
    part& p = parts[std::size_t(chunk)];
    flight& f = p.of(micro_batch);
    p.model.before_pass();
    auto pass = training_pass(p, f, 0);
    matrix_view<value_type const> input = f.input;
    if (!p.net.has_embedding && input.empty()) input = parts[std::size_t(chunk) - 1].of(micro_batch).output;
    f.output = p.net.forward(pass, p.model.parameters(), tokens, input, f.saved,
                             lends_gradients() ? &p.model.next_gradients() : nullptr);
  }
  /// Activations may lie in the gradients when backward comes right behind forward.
  bool lends_gradients() const {
    return std::same_as<schedule, one_f_one_b> && ranks.pipeline.size() == 1 && rank_state::lends_gradients();
  }
  void backward(int chunk, index_t micro_batch, std::span<std::int32_t const> tokens,
                std::span<std::int32_t const> targets, float scale, bool defers) {
    part& p = parts[std::size_t(chunk)];
    flight& f = p.of(micro_batch);
    float const sequence_scale = (set::precision::scales_loss ? scaler.scale : 1.0f) / float(settings.batch);
    auto pass = training_pass(p, f, sequence_scale);
    auto const& gradients = p.model.next_gradients();
    f.gradients_begin = p.model.gradients_begin();
    f.owes_weights = true, f.owes_input = !p.net.has_embedding;
    if (defers) pass.deferred = &f.deferred;
    if (p.net.has_head) {
      float* const losses = f.memory.template allocate<float>(pass.tokens());
      f.gradient = pass.template allocate_own<value_type>(net.width(), true);
      p.net.head_loss(pass, p.model.parameters(), &gradients, f.output, targets, losses, scale, f.gradient);
      add_losses(targets, losses, sums.loss);
    } else if (f.gradient.empty()) {  // the next stage is here, too
      part& next = parts[std::size_t(chunk) + 1];
      flight& behind = next.of(micro_batch);
      f.gradient = pass.template allocate_own<value_type>(net.width(), true);
      std::copy_n(behind.gradient.data(), f.gradient.size(), f.gradient.data());
      behind.owes_input = false;
      next.land(behind);
    }
    p.net.backward(pass, p.model.parameters(), gradients, f.saved, tokens, f.gradient,
                   p.model.table_gradient(gradients.embedding.tokens));
  }
  /// What of a micro-batch's weight gradients was put off; then they are all there.
  void finish_weights(int chunk, index_t micro_batch) {
    part& p = parts[std::size_t(chunk)];
    flight& f = p.of(micro_batch);
    for (auto& work : f.deferred.work) work(exec, p.model.gradients_begin() - f.gradients_begin);
    f.deferred.work.clear();
    f.deferred.memory.release({});
    p.model.end_micro_batch();
    f.owes_weights = false;
    p.land(f);
  }
  void exchange(parallel::instruction const& i) {
    std::vector<comm::transfer> transfers;
    index_t const rows = pass_type::cuts_tokens ? micro_tokens() / ranks.tensor.size() : micro_tokens();
    auto const bytes = std::size_t(rows * net.width()) * sizeof(value_type);
    for (auto const& t : i.transfers) {
      flight& f = parts[std::size_t(t.chunk)].of(t.micro_batch);
      bool const sends = t.way == parallel::direction::send, activation = t.what == parallel::payload::activation;
      matrix_view<value_type>& received = activation ? f.input : f.gradient;
      if (!sends) received = f.memory.template allocate_matrix<value_type>(rows, net.width());
      auto const* const data = sends && activation ? f.output.data() : received.data();
      transfers.push_back({t.peer, sends, const_cast<value_type*>(data), bytes});
    }
    ranks.pipeline.exchange(transfers);
    for (auto const& t : i.transfers)
      if (t.way == parallel::direction::send && t.what == parallel::payload::gradient) {
        part& p = parts[std::size_t(t.chunk)];
        flight& f = p.of(t.micro_batch);
        f.owes_input = false;
        p.land(f);
      }
  }
  /// The two gradients of a table that is embedding in the first stage and head in the last are added in both.
  void add_shared_table() {
    std::span<float> gradient[2];
    for (auto& p : parts)
      if (auto const g = p.model.shared_table_gradient(); !g.empty()) gradient[p.net.has_head] = g;
    auto const add = [&](std::span<float> to, float const* other) {
      ops::add(exec, ops::add_args<float, float>{to.data(), other, index_t(to.size())});
    };
    if (!gradient[0].empty() && !gradient[1].empty()) {
      add(gradient[0], gradient[1].data());
      std::copy(gradient[0].begin(), gradient[0].end(), gradient[1].begin());
    } else if (auto const mine = gradient[0].empty() ? gradient[1] : gradient[0]; !mine.empty()) {
      std::vector<float> other(mine.size());
      int const peer = gradient[0].empty() ? 0 : ranks.pipeline.size() - 1;
      comm::transfer const both[] = {{peer, true, mine.data(), mine.size_bytes()},
                                     {peer, false, other.data(), mine.size_bytes()}};
      ranks.pipeline.exchange(both);
      add(mine, other.data());
    }
  }

  /// Tokens through all stages, without gradients; at_head(part, pass, hidden states) on the ranks that have the head.
  template <class AtHead>
  void go_through(std::span<std::int32_t const> tokens, layout const& where, AtHead&& at_head) {
    int const stages = ranks.pipeline.size(), rank = ranks.pipeline.rank();
    auto const move = [&](int peer, bool sends, matrix_view<value_type const> m) {
      comm::transfer const one{peer, sends, const_cast<value_type*>(m.data()),
                               std::size_t(m.size()) * sizeof(value_type)};
      ranks.pipeline.exchange({&one, 1});
    };
    for (std::size_t c = 0; c < parts.size(); ++c) {
      part& p = parts[c];
      flight& f = p.of(0);
      p.model.before_pass();
      auto pass = make_pass(p, f, where);
      matrix_view<value_type const> input;
      if (!p.net.has_embedding && stages > 1) {
        f.input = pass.template allocate_own<value_type>(net.width(), true);
        move((rank + stages - 1) % stages, false, f.input);
        input = f.input;
      } else if (!p.net.has_embedding) {
        input = parts[c - 1].of(0).output;
      }
      f.output = p.net.forward(pass, p.model.parameters(), tokens, input, f.saved);
      if (p.net.has_head) at_head(p, pass, f.output);
      else if (stages > 1) move((rank + 1) % stages, true, f.output);
    }
    for (auto& p : parts) p.land(p.of(0));
  }
  /// Logits behind the tokens from number `first` on; every context rank goes through whole sequences.
  void all_logits(std::span<std::int32_t const> tokens, index_t length, index_t first, matrix_view<float> logits) {
    std::vector<index_t> where(tokens.size()), ends;
    for (std::size_t i = 0; i < where.size(); ++i) where[i] = index_t(i) % length;
    for (index_t end = 0; end <= index_t(tokens.size()); end += length) ends.push_back(end);
    go_through(tokens, {where, ends, length, false},
               [&](part& last, pass_type& pass, matrix_view<value_type const> hidden) {
                 last.net.logits(pass, last.model.parameters(), rows_of(hidden, first, logits.extent(0)), logits);
               });
    ranks.pipeline.broadcast(std::as_writable_bytes(std::span(logits.data(), std::size_t(logits.size()))),
                             ranks.pipeline.size() - 1);
  }
  /// Adds the losses of the tokens from number `first` to `last`.
  void forward_losses(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets, index_t samples,
                      index_t first, index_t last, sum_of_rank& sum) {
    go_through(tokens, layout_of(samples), [&](part& at_head, pass_type& pass, matrix_view<value_type const> hidden) {
      float* const losses = pass.saved.template allocate<float>(pass.tokens());
      at_head.net.head_loss(pass, at_head.model.parameters(), nullptr, hidden, targets, losses, 0,
                            matrix_view<value_type>{});
      if (first < last) add_losses(targets.subspan(std::size_t(first), std::size_t(last - first)), losses + first, sum);
    });
  }
  /// Of the tensor ranks, which all have the same losses, one adds them.
  bool counts_losses() const { return ranks.tensor.rank() == 0; }
  void add_losses(std::span<std::int32_t const> targets, float const* losses, sum_of_rank& sum) const {
    if (!counts_losses()) return;
    for (std::size_t t = 0; t < targets.size(); ++t)
      if (targets[t] >= 0) sum.local().add(double(losses[t]));
  }
  /// A collective. @param count of what all ranks have added up: each is given all samples, and so knows it
  double mean(sum_of_rank const& sum, index_t count) {
    return comm::mean(comm::all_reduce<comm::world_axis>(ranks, sum), comm::placed<index_t>(count)).value();
  }
  void apply(double norm, step_result& r) {
    float scale = 1;
    if constexpr (set::precision::scales_loss) {
      scale = 1 / scaler.scale;
      norm *= double(scale);
      r.skipped = !scaler.update(norm);
    }
    r.grad_norm = norm;
    r.learning_rate = settings.learning_rate * settings.schedule.factor(steps_done - 1);
    if (r.skipped) {
      if (receipts)
        for (auto& p : parts) p.model.hash_state();
      return;
    }
    if (settings.clip > 0 && norm > double(settings.clip)) scale = float(double(scale) * double(settings.clip) / norm);
    profile::range const running(exec.profiler, "update");
    for (auto& p : parts) p.model.update(settings.optimizer, r.learning_rate, steps_done, scale);
  }
  void check_tokens(std::span<std::int32_t const> tokens) const {
    for (auto t : tokens)
      if (t < 0 || t >= shape.vocabulary)
        throw argument_error("tenon::trainer: token " + std::to_string(t) + " is not in the vocabulary of " +
                             std::to_string(shape.vocabulary) +
                             ". Fix: tokens from the tokenizer that the model is for.");
  }
  void check_batch(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets) const {
    auto const expected = std::size_t(settings.batch * settings.sequence_length);
    if (tokens.size() != expected || targets.size() != expected)
      throw argument_error("tenon::trainer::step: " + std::to_string(tokens.size()) + " tokens and " +
                           std::to_string(targets.size()) + " targets, expected " + std::to_string(expected) +
                           " of each. Fix: batch x sequence_length.");
    check_tokens(tokens);
    for (auto t : targets)
      if (t >= shape.vocabulary) check_tokens(targets);
  }

  config_type shape;
  comm::mesh<world_type> ranks;
  train_options settings;
  network_type whole, net;  ///< the model, and what of it this rank has
  std::vector<parameter_spec> whole_specs;
  context_type exec;
  parallel::sample_plan plan;
  parallel::program work;
  std::deque<part> parts;
  std::optional<comm::stream<world_type>> ring_stream;  ///< on which keys travel under ring attention
  std::vector<index_t> positions, begins;
  struct {
    sum_of_rank loss, auxiliary, squares;
  } sums;  ///< of this step
  optim::loss_scale scaler;
  receipt::recorder* receipts = nullptr;
  index_t steps_done = 0, samples_done = 0;
};

}  // namespace tenon
