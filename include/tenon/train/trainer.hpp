// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/ops/grad_norm.hpp>
#include <tenon/optim/loss_scale.hpp>
#include <tenon/optim/optimizer.hpp>
#include <tenon/optim/schedule.hpp>
#include <tenon/policy/set.hpp>
#include <tenon/train/host_ops.hpp>
#include <tenon/train/state.hpp>

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
  int threads = 0;  ///< 0: one per processor; the bits do not depend on it
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

namespace train {
template <class Model, class... Ps>
consteval bool check_trainer() {
  static_assert(
      requires { typename Model::network_type; },
      "tenon::trainer: the first argument is no model. Fix: a type of tenon::models, e.g. tenon::models::gpt2_124m.");
  if constexpr (check_policies<Ps...>() && requires { typename Model::network_type; }) {
    check_available<policies<Ps...>>();
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

  explicit trainer(train_options const& o) requires(Model::is_static) : trainer(Model::config, o) {}
  /// For a model whose shape is known at run time only, e.g. `models::gpt2<>`.
  trainer(config_type const& c, train_options const& o)
      : shape(checked(c)), settings(checked(c, o)), net(Model::template network<typename set::arithmetic>(c)),
        exec(settings.threads) {
    nn::binder<float const> describe(nullptr, &specs);
    net.bind(describe);
    flat_size = describe.size();
    master = train::flat_buffer<float>(flat_size);
    train::initialize(specs, master.data(), settings.seed);
    if constexpr (!std::same_as<value_type, float>) storage = train::flat_buffer<value_type>(flat_size);
    refresh_storage();
    nn::binder<value_type const> read(parameter_data());
    parameters = net.bind(read);
    first = train::flat_buffer<float>(flat_size);
    if (set::optimizer::state_tensors > 1) second = train::flat_buffer<float>(flat_size);
    lay_out_samples();
  }
  trainer(trainer const&) = delete;
  trainer& operator=(trainer const&) = delete;

  /// One step on `batch` sequences. @shape tokens, targets [batch x sequence_length], a negative target is not counted
  step_result step(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets) {
    check_batch(tokens, targets);
    ++steps_done;
    step_result r{.step = steps_done};
    for (auto t : targets) r.targets += t >= 0;
    if (r.targets == 0)
      throw argument_error(
          "tenon::trainer: no target in the batch is to be predicted. Fix: at least one target that is not negative.");
    if (!gradients) make_gradients();
    float const inverse = 1.0f / float(r.targets);
    float const scale = set::precision::scales_loss ? scaler.scale * inverse : inverse;
    exact_sum loss, auxiliary;
    for (index_t m = 0; m < settings.accumulate; ++m) {
      index_t const n = micro_tokens(), at = m * n;
      auto const begin = std::size_t(at), count = std::size_t(n);
      micro_batch(tokens.subspan(begin, count), targets.subspan(begin, count), m, scale, loss, auxiliary);
      gradients->push(exec);
    }
    auto& sum = gradients->finish(exec);
    if (separate_embedding_gradient()) {
      float* const table = sum.bound.embedding.tokens.data();
      ops::add(exec, ops::add_args<float, float>{table, sum.values.data() + flat_size, embedding_size()});
    }
    samples_done += settings.batch;
    r.loss = loss.value() / double(r.targets);
    r.auxiliary_loss = auxiliary.value() / double(settings.batch);
    apply(sum.values.data(), r);
    return r;
  }

  /// Mean loss over the targets, in nats; nothing is changed. @shape as `step`, any number of whole sequences up to
  /// the micro-batch
  double evaluate(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets) {
    auto const samples = index_t(tokens.size()) / settings.sequence_length;
    if (index_t(tokens.size()) != samples * settings.sequence_length || samples < 1 || samples > micro_samples() ||
        targets.size() != tokens.size())
      throw argument_error("tenon::trainer::evaluate: " + std::to_string(tokens.size()) +
                           " tokens are no whole number of sequences within one micro-batch of " +
                           std::to_string(micro_samples()) + ". Fix: sequences of " +
                           std::to_string(settings.sequence_length) + " tokens.");
    auto const mark = saved_memory.mark();
    auto pass = make_pass(samples, 0, false);
    auto const hidden = net.forward(pass, parameters, tokens, saved);
    float* const losses = saved_memory.template allocate<float>(pass.tokens());
    net.head_loss(pass, parameters, nullptr, as_const(hidden), targets, losses, 0, matrix_view<value_type>{});
    exact_sum sum;
    index_t counted = 0;
    for (std::size_t t = 0; t < targets.size(); ++t)
      if (targets[t] >= 0) sum.add(losses[t]), ++counted;
    saved_memory.release(mark);
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
    auto const hidden = net.forward(pass, parameters, tokens, saved);
    ops::gemm(exec, ops::gemm_args<float, value_type, value_type>{.c = matrix(logits.data(), 1, shape.vocabulary),
                                                                  .a = rows_of(as_const(hidden), n - 1, 1),
                                                                  .b = transposed(parameters.head)});
    saved_memory.release(mark);
  }

  /// Logits of every position, and the last step's gradients: for comparison with other implementations.
  /// @shape tokens [n x sequence_length], logits [n x sequence_length, vocabulary]
  void all_logits(std::span<std::int32_t const> tokens, matrix_view<float> logits) {
    check_tokens(tokens);
    auto const mark = saved_memory.mark();
    auto pass = make_pass(index_t(tokens.size()) / settings.sequence_length, 0, false);
    auto const hidden = net.forward(pass, parameters, tokens, saved);
    ops::gemm(exec, ops::gemm_args<float, value_type, value_type>{.c = logits,
                                                                  .a = as_const(hidden),
                                                                  .b = transposed(parameters.head)});
    saved_memory.release(mark);
  }
  /// Gradients as the last step left them (scaled by the loss scale under fp16); the layout of `parameter_list`.
  std::span<float const> last_gradients() const { return {last_gradient, std::size_t(last_gradient ? flat_size : 0)}; }

  config_type const& config() const { return shape; }
  train_options const& options() const { return settings; }
  network_type const& network() const { return net; }
  context_type& context() { return exec; }
  std::span<nn::parameter_spec const> parameter_list() const { return specs; }
  index_t parameter_count() const {
    index_t n = 0;
    for (auto const& s : specs) n += s.size();
    return n;
  }
  index_t steps() const { return steps_done; }
  /// Sequences trained on so far: the position in the data.
  index_t samples() const { return samples_done; }
  double step_flops() const { return net.step_flops(double(settings.batch), double(settings.sequence_length)); }
  /// Times that memory was asked from the system: constant after the first step.
  std::size_t system_allocations() { return saved_memory.system_allocations() + exec.scratch().system_allocations(); }

  /// Everything a checkpoint holds beside the numbers in `train_options`. After writing through it: `restored()`.
  struct state_view {
    std::span<float> parameters, first, second;
    optim::loss_scale& scaler;
    index_t& steps;
    index_t& samples;
  };
  state_view state() {
    auto const span = [](train::flat_buffer<float>& b) { return std::span<float>(b.data(), std::size_t(b.size())); };
    return {span(master), span(first), span(second), scaler, steps_done, samples_done};
  }
  void restored() { refresh_storage(); }

 private:
  using pass_type = nn::pass<context_type, typename set::arithmetic, typename set::memory>;
  using bound_gradients = typename network_type::template parameters<float>;

  static config_type checked(config_type const& c) {
    if (char const* p = Model::problem(c)) throw error(errc::bad_config, p);
    return c;
  }
  static train_options checked(config_type const& c, train_options o) {
    auto const fail = [](std::string const& what) { throw argument_error("tenon::trainer: " + what); };
    if (o.sequence_length == 0) o.sequence_length = c.context;
    if (o.sequence_length < 1 || o.sequence_length > c.context)
      fail("sequence_length is " + std::to_string(o.sequence_length) + ". Fix: 1 to the model's context, " +
           std::to_string(c.context) + ".");
    if (o.batch < 1 || o.accumulate < 1 || o.batch % o.accumulate != 0)
      fail("batch " + std::to_string(o.batch) + " is not a multiple of accumulate " + std::to_string(o.accumulate) +
           ". Fix: a batch that divides.");
    index_t const micro = o.batch / o.accumulate;
    if (o.accumulate > 1 && (micro & (micro - 1)) != 0)
      fail("a micro-batch of " + std::to_string(micro) +
           " sequences is no node of the summation tree. Fix: batch / accumulate a power of two.");
    if (!(o.learning_rate >= 0)) fail("learning_rate is negative or not a number. Fix: a rate such as 6e-4.");
    if (o.threads == 0) o.threads = int(std::thread::hardware_concurrency());
    if (o.threads < 1 || o.threads > 1024)
      fail("threads is " + std::to_string(o.threads) + ". Fix: 1 to 1024, or 0 for one per processor.");
    return o;
  }

  index_t micro_samples() const { return settings.batch / settings.accumulate; }
  index_t micro_tokens() const { return micro_samples() * settings.sequence_length; }
  index_t embedding_size() const { return shape.vocabulary * shape.width; }
  bool separate_embedding_gradient() const { return net.tied && settings.accumulate > 1; }

  void lay_out_samples() {
    index_t const length = settings.sequence_length;
    positions.resize(std::size_t(micro_tokens()));
    for (std::size_t t = 0; t < positions.size(); ++t) positions[t] = index_t(t) % length;
    for (index_t s = 0; s <= micro_samples(); ++s) begins.push_back(s * length);
  }
  void make_gradients() {
    index_t const extra = separate_embedding_gradient() ? embedding_size() : 0;
    gradients.emplace(flat_size + extra, settings.accumulate, [&](float* p) {
      nn::binder<float> b(p);
      return net.bind(b);
    });
  }
  pass_type make_pass(index_t samples, index_t micro, bool training) {
    auto const tokens = std::size_t(samples * settings.sequence_length);
    return {exec,
            saved_memory,
            std::span<index_t const>(positions).first(tokens),
            std::span<index_t const>(begins).first(std::size_t(samples) + 1),
            settings.sequence_length,
            std::uint64_t(samples_done + micro * micro_samples()),
            settings.seed,
            std::uint64_t(steps_done),
            training};
  }
  void micro_batch(std::span<std::int32_t const> tokens, std::span<std::int32_t const> targets, index_t micro,
                   float scale, exact_sum& loss, exact_sum& auxiliary) {
    auto& slot = gradients->next();
    auto const mark = saved_memory.mark();
    auto pass = make_pass(micro_samples(), micro, true);
    pass.auxiliary_scale = (set::precision::scales_loss ? scaler.scale : 1.0f) / float(settings.batch);
    pass.auxiliary_loss = &auxiliary;
    auto const hidden = net.forward(pass, parameters, tokens, saved, &slot.bound);
    float* const losses = saved_memory.template allocate<float>(pass.tokens());
    auto const d_hidden = pass.template allocate<value_type>(net.width(), true);
    net.head_loss(pass, parameters, &slot.bound, as_const(hidden), targets, losses, scale, d_hidden);
    matrix_view<float> apart{};
    if (separate_embedding_gradient()) apart = matrix(slot.values.data() + flat_size, shape.vocabulary, shape.width);
    net.backward(pass, parameters, slot.bound, saved, tokens, d_hidden, apart);
    for (std::size_t t = 0; t < targets.size(); ++t)
      if (targets[t] >= 0) loss.add(losses[t]);
    saved_memory.release(mark);
  }
  void apply(float const* gradient, step_result& r) {
    last_gradient = gradient;
    norm_parts.clear();
    for (auto const& s : specs) norm_parts.push_back({gradient + s.offset, s.rows, s.cols});
    double norm = 0;
    ops::grad_norm(exec, ops::grad_norm_args{norm_parts, &norm});
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
    optim::update<typename set::optimizer>(
        exec, std::span<nn::parameter_spec const>(specs),
        optim::optimizer_buffers<value_type>{master.data(), gradient, first.data(), second.data(), storage.data()},
        settings.optimizer, r.learning_rate, steps_done, scale);
  }
  value_type const* parameter_data() const {
    if constexpr (std::same_as<value_type, float>) return master.data();
    else return storage.data();
  }
  void refresh_storage() {
    if constexpr (!std::same_as<value_type, float>)
      ops::convert(exec, ops::convert_args<value_type, float>{storage.data(), master.data(), flat_size});
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
  train_options settings;
  network_type net;
  context_type exec;
  std::vector<nn::parameter_spec> specs;
  index_t flat_size = 0;
  train::flat_buffer<float> master, first, second;
  train::flat_buffer<value_type> storage;
  typename network_type::template parameters<value_type const> parameters;
  typename network_type::template saved<value_type> saved;
  std::optional<train::gradient_tree<bound_gradients>> gradients;
  float const* last_gradient = nullptr;
  arena saved_memory;
  std::vector<index_t> positions, begins;
  std::vector<ops::norm_part> norm_parts;
  optim::loss_scale scaler;
  index_t steps_done = 0, samples_done = 0;
};

}  // namespace tenon
