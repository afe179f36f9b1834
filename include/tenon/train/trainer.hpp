// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <tenon/comm/mesh.hpp>
#include <tenon/comm/reduce.hpp>
#include <tenon/comm/self.hpp>
#include <tenon/core/error.hpp>
#include <tenon/models/check.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/optim/loss_scale.hpp>
#include <tenon/optim/optimizer.hpp>
#include <tenon/optim/schedule.hpp>
#include <tenon/parallel/model_state.hpp>
#include <tenon/policy/set.hpp>
#include <tenon/train/host_ops.hpp>

namespace tenon {

/// Numbers of a run. What changes types (model, precision, strategy) is not here.
struct train_options {
  index_t batch = 8;            ///< sequences per step, over all micro-batches
  index_t accumulate = 1;       ///< micro-batches per step; the same bits for every number that divides the batch
  index_t sequence_length = 0;  ///< tokens per sequence; 0: the model's context
  float learning_rate = 6e-4f;  ///< the peak
  optim::schedule schedule{};
  optim::optimizer_options optimizer{};
  float clip = 1.0f;  ///< largest gradient norm; 0: no clipping
  std::uint64_t seed = 1;
  int threads = 0;  ///< of each rank; 0: the processors, shared among the ranks of this process; no bit depends on it
  comm::mesh_shape mesh{};  ///< degrees of the axes that are `dynamic` in the line of types
};

/// What one step did.
struct step_result {
  index_t step = 0;           ///< 1-based
  double loss = 0;            ///< mean over all targets of the step, in nats
  double auxiliary_loss = 0;  ///< mean over sequences of what balances experts; its gradient is in the step's, too
  double grad_norm = 0;       ///< before clipping
  float learning_rate = 0;
  index_t targets = 0;
  bool skipped = false;  ///< fp16 only: a gradient overflowed, no parameter was changed
};

using parallel::state_kind;

namespace train {
template <class Model, class... Ps>
consteval bool check_trainer() {
  static_assert(
      requires { typename Model::network_type; },
      "tenon::trainer: the first argument is no model. Fix: a type of tenon::models, e.g. tenon::models::gpt2_124m.");
  if constexpr (check_policies<Ps...>() && requires { typename Model::network_type; }) {
    check_available<policies<Ps...>>();
    if constexpr (Model::is_static) {
      static_assert(
          Model::problem(Model::config) == nullptr,
          "tenon::trainer: the model's shape does not fit together; Model::problem(Model::config) says where. "
          "Fix: widths that divide by heads, heads that divide by kv_heads, positive sizes.");
      static_assert(models::tensor_problem(Model::config, policies<Ps...>::tensor::degree) == nullptr,
                    "tenon::trainer: the model cannot be cut over so many tensor ranks; "
                    "models::tensor_problem(Model::config, ranks) says where. "
                    "Fix: 1, 2, 4 or 8 ranks that divide the KV heads, each with a multiple of 16 features of them.");
    }
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
      : shape(checked(c)), ranks(world, degrees(o.mesh)), settings(checked(c, o, ranks)),
        whole(Model::template network<typename set::arithmetic>(c)), net(part_of(whole, ranks)), exec(settings.threads),
        plan(make_plan(settings, ranks)),
        model(exec, net, ranks, plan, settings.seed, net.tied && plan.groups * settings.accumulate > 1) {
    nn::binder<float const> describe(&whole_specs);
    whole.bind(describe);
    lay_out_samples();
  }
  trainer(trainer const&) = delete;
  trainer& operator=(trainer const&) = delete;

  /// One step on `batch` sequences. Every rank is given the whole batch and works on its part; all return the same.
  /// @shape tokens, targets [batch x sequence_length], a negative target is not counted
  step_result step(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets) {
    check_batch(tokens, targets);
    ++steps_done;
    step_result r{.step = steps_done};
    for (auto t : targets) r.targets += t >= 0;
    if (r.targets == 0)
      throw argument_error(
          "tenon::trainer: no target in the batch is to be predicted. Fix: at least one target that is not negative.");
    float const inverse = 1.0f / float(r.targets);
    float const scale = set::precision::scales_loss ? scaler.scale * inverse : inverse;
    exact_sum loss, auxiliary, squares;
    for (index_t m = 0; m < settings.accumulate; ++m) {
      auto const begin = std::size_t(plan.number(m) * micro_tokens()), count = std::size_t(micro_tokens());
      micro_batch(tokens.subspan(begin, count), targets.subspan(begin, count), m, scale, loss, auxiliary);
    }
    model.finish_gradients(squares);
    for (exact_sum* sum : {&loss, &auxiliary, &squares}) comm::all_reduce(ranks.world, *sum);
    samples_done += settings.batch;
    r.loss = loss.value() / double(r.targets);
    r.auxiliary_loss = auxiliary.value() / double(settings.batch);
    apply(std::sqrt(squares.value()), r);
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
    exact_sum sum;
    for (index_t round = 0; round < samples; round += plan.groups * plan.micro) {
      index_t const first = round + plan.group * plan.micro, n = std::min(plan.micro, samples - first);
      // A rank that has no samples left goes along with one that does not count: passes are collective.
      auto const begin = std::size_t((n > 0 ? first : 0) * length),
                 count = std::size_t(std::max<index_t>(n, 1) * length);
      forward_losses(tokens.subspan(begin, count), targets.subspan(begin, count), n > 0 ? &sum : nullptr);
    }
    comm::all_reduce(ranks.world, sum);
    index_t counted = 0;
    for (auto t : targets) counted += t >= 0;
    return counted ? sum.value() / double(counted) : 0;
  }

  /// The logits behind the last of up to `context` tokens. @shape tokens [t], logits [vocabulary]
  void next_logits(std::span<std::int32_t const> tokens, std::span<float> logits) {
    check_tokens(tokens);
    if (tokens.empty() || index_t(tokens.size()) > shape.context || index_t(logits.size()) != shape.vocabulary)
      throw argument_error("tenon::trainer::next_logits: needs 1 to " + std::to_string(shape.context) +
                           " tokens and room for " + std::to_string(shape.vocabulary) + " logits.");
    index_t const n = index_t(tokens.size());
    auto const mark = saved_memory.mark();
    index_t* const where = saved_memory.template allocate<index_t>(n + 2);
    for (index_t i = 0; i < n; ++i) where[i] = i;
    where[n] = 0, where[n + 1] = n;
    pass_type pass{exec, saved_memory, {where, std::size_t(n)}, {where + n, 2}, n};
    pass.hooks = {&model};
    pass.mesh = &ranks;
    model.before_pass();
    auto const hidden = net.forward(pass, model.parameters(), tokens, saved);
    net.logits(pass, model.parameters(), rows_of(as_const(hidden), n - 1, 1),
               matrix(logits.data(), 1, shape.vocabulary));
    saved_memory.release(mark);
  }

  /// Logits of every position, and the last step's gradients: for comparison with other implementations.
  /// @shape tokens [n x sequence_length], logits [n x sequence_length, vocabulary]
  void all_logits(std::span<std::int32_t const> tokens, matrix_view<float> logits) {
    check_tokens(tokens);
    auto const mark = saved_memory.mark();
    auto pass = make_pass(index_t(tokens.size()) / settings.sequence_length, 0, false);
    auto const hidden = net.forward(pass, model.parameters(), tokens, saved);
    net.logits(pass, model.parameters(), as_const(hidden), logits);
    saved_memory.release(mark);
  }
  /// Gradients as the last step left them (scaled by the loss scale under fp16); the layout of `parameter_list`.
  std::span<float const> last_gradients() const requires is_alone { return model.last_gradients(); }

  config_type const& config() const { return shape; }
  train_options const& options() const { return settings; }
  network_type const& network() const { return net; }
  context_type& context() { return exec; }
  comm::mesh<world_type>& mesh() { return ranks; }
  /// The parameters of the whole model.
  std::span<parameter_spec const> parameter_list() const { return whole_specs; }
  index_t parameter_count() const {
    index_t n = 0;
    for (auto const& s : parameter_list()) n += s.size();
    return n;
  }
  /// Bytes of parameters, gradients and optimizer state that this rank holds, once it has made a step.
  std::size_t state_bytes() const { return model.bytes(); }
  index_t steps() const { return steps_done; }
  /// Sequences trained on so far: the position in the data.
  index_t samples() const { return samples_done; }
  double step_flops() const { return whole.step_flops(double(settings.batch), double(settings.sequence_length)); }
  /// Times that memory was asked from the system: constant after the first step.
  std::size_t system_allocations() { return saved_memory.system_allocations() + exec.scratch().system_allocations(); }

  /// One parameter of the whole model, or its optimizer state, on every rank: a collective. @shape out [spec.size()]
  void read(state_kind kind, parameter_spec const& spec, std::span<float> out) { model.read(kind, spec, out); }
  /// Sets one; `restored()` comes after the last. @shape values [spec.size()]
  void write(state_kind kind, parameter_spec const& spec, std::span<float const> values) {
    model.write(kind, spec, values);
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
  void restored() { model.restored(); }

 private:
  using rank_state = parallel::model_state<set, network_type, world_type, context_type>;
  using pass_type = nn::pass<context_type, typename set::arithmetic, typename set::memory, typename rank_state::hooks,
                             world_type, !std::is_void_v<typename set::sequence>>;

  static world_type& alone_world() requires is_alone {
    static world_type world;
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
    return part;
  }
  static parallel::sample_plan make_plan(train_options const& o, comm::mesh<world_type> const& ranks) {
    int const groups = ranks.batch.size();
    return {o.batch / (groups * o.accumulate), o.accumulate, groups, ranks.batch.rank(), set::zero::stage >= 2};
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
    if (set::zero::stage >= 2 && o.accumulate > 1 && !is_power_of_two(groups * micro))
      fail("zero<" + std::to_string(set::zero::stage) + "> adds " + std::to_string(groups * micro) +
           " sequences over ranks before it accumulates, which is no node of the summation tree. "
           "Fix: a power of two, accumulate 1, or zero<1>.");
    index_t const tensor = ranks.tensor.size(), leaf = set::arithmetic::token_leaf(o.sequence_length);
    if (index_t const tokens = micro * o.sequence_length;
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

  index_t micro_tokens() const { return plan.micro * settings.sequence_length; }

  void lay_out_samples() {
    index_t const length = settings.sequence_length;
    positions.resize(std::size_t(micro_tokens()));
    for (std::size_t t = 0; t < positions.size(); ++t) positions[t] = index_t(t) % length;
    for (index_t s = 0; s <= plan.micro; ++s) begins.push_back(s * length);
  }
  pass_type make_pass(index_t samples, index_t micro, bool training) {
    auto const tokens = std::size_t(samples * settings.sequence_length);
    return {exec,
            saved_memory,
            std::span<index_t const>(positions).first(tokens),
            std::span<index_t const>(begins).first(std::size_t(samples) + 1),
            settings.sequence_length,
            std::uint64_t(samples_done + plan.number(micro) * plan.micro),
            settings.seed,
            std::uint64_t(steps_done),
            training,
            {&model, training},
            &ranks};
  }
  void micro_batch(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets, index_t micro,
                   float scale, exact_sum& loss, exact_sum& auxiliary) {
    model.before_pass();
    auto const& gradients = model.next_gradients(net);
    auto const mark = saved_memory.mark();
    auto pass = make_pass(plan.micro, micro, true);
    pass.auxiliary_scale = (set::precision::scales_loss ? scaler.scale : 1.0f) / float(settings.batch);
    pass.auxiliary_loss = counts_losses() ? &auxiliary : nullptr;
    auto const& p = model.parameters();
    auto const hidden = net.forward(pass, p, tokens, saved, model.lends_gradients() ? &gradients : nullptr);
    float* const losses = saved_memory.template allocate<float>(pass.tokens());
    auto const d_hidden = pass.template allocate_own<value_type>(net.width(), true);
    net.head_loss(pass, p, &gradients, as_const(hidden), targets, losses, scale, d_hidden);
    net.backward(pass, p, gradients, saved, tokens, d_hidden, model.table_gradient(gradients.embedding.tokens));
    model.end_micro_batch();
    add_losses(targets, losses, loss);
    saved_memory.release(mark);
  }
  void forward_losses(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets, exact_sum* sum) {
    model.before_pass();
    auto const mark = saved_memory.mark();
    auto pass = make_pass(index_t(tokens.size()) / settings.sequence_length, 0, false);
    auto const hidden = net.forward(pass, model.parameters(), tokens, saved);
    float* const losses = saved_memory.template allocate<float>(pass.tokens());
    net.head_loss(pass, model.parameters(), nullptr, as_const(hidden), targets, losses, 0, matrix_view<value_type>{});
    if (sum) add_losses(targets, losses, *sum);
    saved_memory.release(mark);
  }
  /// Of the tensor ranks, which all have the same losses, one adds them.
  bool counts_losses() const { return ranks.tensor.rank() == 0; }
  void add_losses(std::span<std::int32_t const> targets, float const* losses, exact_sum& sum) const {
    if (!counts_losses()) return;
    for (std::size_t t = 0; t < targets.size(); ++t)
      if (targets[t] >= 0) sum.add(double(losses[t]));
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
    if (r.skipped) return;
    if (settings.clip > 0 && norm > double(settings.clip)) scale = float(double(scale) * double(settings.clip) / norm);
    model.update(settings.optimizer, r.learning_rate, steps_done, scale);
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
  rank_state model;
  typename network_type::template saved<value_type> saved;
  arena saved_memory;
  std::vector<index_t> positions, begins;
  optim::loss_scale scaler;
  index_t steps_done = 0, samples_done = 0;
};

}  // namespace tenon
