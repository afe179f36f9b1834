// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Many requests on one model: continuous batching over a paged cache.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tenon/infer/beam_search.hpp>
#include <tenon/infer/bind.hpp>
#include <tenon/infer/draft_model.hpp>
#include <tenon/infer/scheduler.hpp>
#include <tenon/infer/seen_tokens.hpp>
#include <tenon/infer/speculation.hpp>
#include <tenon/ops/sample.hpp>
#include <tenon/policy/arithmetic.hpp>
#include <tenon/policy/kv.hpp>
#include <tenon/policy/set.hpp>

namespace tenon {

namespace infer {

/// A request: what is to be continued, and how.
struct generation {
  std::vector<std::int32_t> prompt{};
  index_t max_tokens = 128;
  ops::sampling_options sampling{};
  index_t samples = 1;                      ///< continuations of the same prompt, each with random numbers of its own
  std::vector<std::int32_t> stop_tokens{};  ///< end a sample; they are handed out too
  bool wants_log_probabilities = false;
  /// So many tokens are guessed, by the draft model or else from repetitions in the text, and tried at once: faster, same
  /// bits.
  index_t drafts = 0;
  /// Above 1: beam search. `sampling` and `drafts` do not matter then, `samples` are the best of the texts found, and
  /// their tokens come when the search has ended.
  index_t beams = 1;
  float length_penalty = 1;  ///< see beam_options
  infer::early_stopping early_stopping = infer::early_stopping::no;
  index_t likeliest = 0;  ///< so many tokens besides, with their log-probabilities
  int priority = 0;
  std::uint64_t salt = 0;  ///< requests of different salt share no cached text
};
/// `failed`: no token could be drawn, as none was allowed or no logit is a number; the token is -1.
enum class finish { no, stopped, length, cancelled, failed };
/// A token as it comes. What it points to is there during the call only.
struct new_token {
  index_t sample = 0;
  std::int32_t token = -1;
  float log_probability = 0;
  std::span<ops::token_value const> likeliest{};
  std::span<float const> logits{};  ///< that it was drawn from
  finish end = finish::no;          ///< this is the sample's last token
};
/// Returns whether the sample is to go on. It may submit and cancel requests; what it throws ends its sample and comes out
/// of `step` when the others have got their tokens.
using token_sink = std::function<bool(new_token const&)>;

}  // namespace infer

/// An inference engine: a model, bound to its file, that works on many requests at once. A request's tokens are a
/// function of the file and the request alone: neither its neighbours nor chunks, cached prefixes, preemption, threads
/// nor tensor ranks change a bit (contract B).
///
///     tenon::engine<tenon::models::any> e{"model.gguf"};
///     e.submit({.prompt = e.tokenizer().encode("The tenon fits the")}, [&](auto const& t) { ...; return true; });
///     while (e.step()) {}
///
/// @tparam Model models::any, or e.g. models::gemma3<>, whose file the engine then demands
/// @tparam Ps kv::paged<B, Element>, batching::..., preemption::..., arithmetic::..., tensor<N> and a communicator
/// @test tests/infer/engine_test.cpp
template <class Model = models::any, class... Ps>
class engine {
 public:
  using kv_policy = typename detail::select_policy<kv_axis, kv::paged<16>, Ps...>::type;
  using arithmetic = typename detail::select_policy<arithmetic_axis, tenon::arithmetic::bitwise, Ps...>::type;
  using scheduler_type =
      infer::scheduler<typename detail::select_policy<batching_axis, batching::first_come<>, Ps...>::type,
                       typename detail::select_policy<preemption_axis, preemption::recompute, Ps...>::type>;

  using world_type = typename detail::select_policy<communicator_axis, comm::self, Ps...>::type;
  using tensor_policy = typename detail::select_policy<tensor_axis, tensor<1>, Ps...>::type;

  /// @error file_error when the file is not a model of this kind; argument_error when options do not fit it
  explicit engine(std::filesystem::path const& model,
                  engine_options const& options = {}) requires std::same_as<world_type, comm::self>
      : engine(nullptr, model, options) {}
  /// One of the ranks of `world`, which lives longer, and which share every matrix. All make the same calls, and all get
  /// all tokens.
  engine(world_type& world, std::filesystem::path const& model, engine_options const& options = {})
      : engine(std::make_unique<comm::mesh<world_type>>(world, comm::mesh_shape{.tensor = world.size()}), model,
               options) {
    if (tensor_policy::degree != dynamic && tensor_policy::degree != world.size())
      throw argument_error("tenon::engine: tensor<" + std::to_string(tensor_policy::degree) + "> has " +
                           std::to_string(world.size()) + " ranks. Fix: start as many ranks as the degree says.");
  }
  engine(engine const&) = delete;

  infer::model_file const& model() const { return file; }
  /// Read on first use.
  text::tokenizer const& tokenizer() {
    if (!words) words = std::make_unique<text::tokenizer>(file.tokenizer());
    return *words;
  }
  index_t vocabulary() const { return network->vocabulary(); }
  index_t longest() const { return settings.longest; }
  exec::host_context& context() { return exec; }

  /// Takes in a request; `sink` gets its tokens while `step` runs.
  /// @error argument_error when the request cannot be served: an empty prompt, a token that is not in the vocabulary,
  /// more than `longest` tokens, impossible sampling
  infer::request_id submit(infer::generation request, infer::token_sink sink) {
    ops::check_sampling(request.sampling, vocabulary());
    for (auto const t : request.prompt)
      if (t < 0 || t >= vocabulary())
        throw argument_error("tenon::engine: the prompt has the token " + std::to_string(t) +
                             ", and the vocabulary has " + std::to_string(vocabulary()) +
                             ". Fix: tokens of this model's tokenizer.");
    index_t const tokens = index_t(request.prompt.size()) + request.max_tokens;
    if (tokens > settings.longest)
      throw argument_error("tenon::engine: a prompt of " + std::to_string(request.prompt.size()) + " tokens and " +
                           std::to_string(request.max_tokens) + " new ones are more than the " +
                           std::to_string(settings.longest) +
                           " that a sequence may have. Fix: fewer, or a larger "
                           "engine_options::longest.");
    bool const searches = request.beams > 1;
    if (searches && request.samples > request.beams)
      throw argument_error("tenon::engine: a request has " + std::to_string(request.samples) + " samples and " +
                           std::to_string(request.beams) + " beams. Fix: at most as many samples as beams.");
    auto const first = schedule->submit({.prompt = request.prompt,
                                         .max_new_tokens = request.max_tokens,
                                         .priority = request.priority,
                                         .branches = searches ? request.beams : request.samples,
                                         .together = searches,
                                         .salt = request.salt});
    auto const& o = request.sampling;
    sample_state s;
    if (o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0)
      s.seen.emplace(request.prompt, tokens);
    s.of = std::make_shared<request_state>(request_state{std::move(request), std::move(sink)});
    if (searches) s.of->start_search(first);
    auto& bias = s.of->asked.sampling.bias;
    s.of->bias.assign(bias.begin(), bias.end());
    bias = s.of->bias;
    live.emplace(first, std::move(s));
    return schedule->request_of(first);
  }
  /// Ends all samples of a request. Those that draw at this moment end when the step does.
  void cancel(infer::request_id id) {
    if (is_drawing) return void(to_cancel.push_back(id));
    // Sinks are told at the end: what they submit or cancel changes `live`.
    std::vector<std::pair<std::shared_ptr<request_state>, index_t>> ended;
    for (auto it = live.begin(); it != live.end();)
      if (schedule->request_of(it->first) == id) {
        schedule->drop(it->first);
        if (auto const& s = it->second; s.sample < s.of->asked.samples) ended.emplace_back(s.of, s.sample);
        it = live.erase(it);
      } else {
        ++it;
      }
    for (auto const& e : ended) e.first->sink({.sample = e.second, .end = infer::finish::cancelled});
  }
  /// One step for all: false when there is nothing to do.
  bool step() {
    if (schedule->is_idle()) return false;
    auto const& plan = schedule->plan();
    for (auto const& m : plan.moves) network->move(m);
    batch.clear();
    for (auto const& p : plan.batch) batch.add(p.tokens, p.first, p.logits, schedule->pages(p.sequence));
    logits.resize(batch.wanted.size() * std::size_t(vocabulary()));
    network->run(batch, matrix(logits.data(), index_t(batch.wanted.size()), vocabulary()));
    index_t row = 0;
    is_drawing = true;
    for (auto const& p : plan.batch) {
      if (p.logits > 0) draw(p.sequence, row, p.tokens.last(std::size_t(p.logits - 1)));
      row += p.logits;
    }
    is_drawing = false;
    if (guesses)
      guesses->run([&](auto id) { return live.contains(id); },
                   [&](auto id, auto tokens) { schedule->draft(id, tokens); });
    while (!to_cancel.empty()) cancel(take_last(to_cancel));
    if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
    return true;
  }

 private:
  engine(std::unique_ptr<comm::mesh<world_type>> mesh, std::filesystem::path const& model,
         engine_options const& options)
      : ranks(std::move(mesh)), file(model), settings(options),
        exec(options.threads > 0
                 ? options.threads
                 : std::max(1, int(std::thread::hardware_concurrency()) / (ranks ? ranks->world.ranks_here() : 1))),
        weights(exec, file) {
    auto bound = infer::bind_model<Model, arithmetic, kv_policy>(exec, file, weights, settings, ranks.get());
    network = std::move(bound.network);
    batch.reserve(bound.scheduling.groups.size(), settings.token_budget, settings.max_sequences);
    schedule.emplace(std::move(bound.scheduling));
    if (!settings.draft_model.empty())
      guesses = std::make_unique<infer::draft_model>(exec, settings, vocabulary(), [&](auto&... draft) {
        return infer::bind_model<Model, arithmetic, kv_policy>(exec, draft..., ranks.get());
      });
  }
  struct request_state {
    infer::generation asked;
    infer::token_sink sink;
    std::vector<ops::token_value> bias{};  ///< that `asked` refers to
    std::optional<infer::beam_search> search{};
    std::vector<infer::sequence_id> beams{};
    std::vector<ops::token_value> beams_likeliest{};  ///< [beams, width]
    index_t beams_ready = 0;                          ///< have their likeliest tokens

    void start_search(infer::sequence_id first) {
      beams.push_back(first);
      search.emplace(infer::beam_options{.beams = asked.beams,
                                         .max_tokens = asked.max_tokens,
                                         .length_penalty = asked.length_penalty,
                                         .early = asked.early_stopping,
                                         .stop_tokens = asked.stop_tokens});
    }
  };
  struct sample_state {
    std::shared_ptr<request_state> of;
    index_t sample = 0;  ///< or which of the beams
    bool has_forked = false;
    std::optional<infer::seen_tokens> seen{};  ///< where a penalty asks for them
  };

  /// Draws the next token of a sequence, whose logits begin with row `row`, and tokens in the place of drafts as long as
  /// they hold; of a sequence that has just read its prompt, the first tokens of all its samples.
  void draw(infer::sequence_id id, index_t row, std::span<std::int32_t const> drafts) {
    sample_state& s = live.at(id);
    if (s.of->search) return look_ahead(s, row);
    if (!std::exchange(s.has_forked, true))
      for (index_t k = 1; k < s.of->asked.samples; ++k) {
        auto const other = schedule->fork(id);
        live.emplace(other, sample_state{s.of, k, true, s.seen});
        draw_one(other, row, {});
      }
    draw_one(id, row, drafts);
  }
  void draw_one(infer::sequence_id id, index_t row, std::span<std::int32_t const> drafts) {
    sample_state& s = live.at(id);  // stays where it is when the sink submits
    auto const& asked = s.of->asked;
    ops::sampling_options sampling = asked.sampling;
    sampling.sample = std::uint64_t(s.sample);
    auto const known = schedule->tokens(id).size();
    likeliest.resize(std::size_t(asked.likeliest));
    drawn.clear();
    bool goes_on = true;
    do {
      ops::sample_row r{.logits = logits.data() + (row + index_t(drawn.size())) * vocabulary(),
                        .options = &sampling,
                        .position = known + drawn.size(),
                        .seen = s.seen ? s.seen->list() : std::span<ops::seen_token const>{},
                        .wants_log_probability = asked.wants_log_probabilities,
                        .likeliest = likeliest};
      sample(r);
      if (r.token < 0) {
        hand_out(*s.of, {.sample = s.sample, .end = infer::finish::failed});
        schedule->drop(id);
        return void(live.erase(id));
      }
      drawn.push_back(r.token);
      if (s.seen) s.seen->add(r.token);
      bool const is_last = index_t(known + drawn.size() - asked.prompt.size()) == asked.max_tokens;
      infer::new_token const t{s.sample,
                               r.token,
                               r.log_probability,
                               likeliest,
                               {r.logits, std::size_t(vocabulary())},
                               end_of(asked, r.token, is_last)};
      goes_on = hand_out(*s.of, t) && t.end == infer::finish::no;
    } while (goes_on && drawn.size() <= drafts.size() && drawn.back() == drafts[drawn.size() - 1]);
    schedule->commit(id, drawn, !goes_on);
    if (!goes_on) return void(live.erase(id));
    if (asked.drafts == 0) return;
    if (guesses)
      return guesses->ask({.id = id,
                           .text = schedule->tokens(id),
                           .drafts = asked.drafts,
                           .most = index_t(asked.prompt.size()) + asked.max_tokens,
                           .salt = asked.salt,
                           .sampling = sampling,
                           .seen = s.seen ? s.seen->list() : std::span<ops::seen_token const>{}});
    drawn.resize(std::size_t(asked.drafts));
    auto const guessed = infer::ngram_draft(schedule->tokens(id), drawn);
    schedule->draft(id, std::span(drawn).first(std::size_t(guessed)));
  }

  /// A beam has logits. When all have, those that go on do, as copies of what they continue, or as itself.
  void look_ahead(sample_state const& s, index_t row) {
    auto const r = s.of;
    index_t const width = r->search->width(vocabulary());
    r->beams_likeliest.resize(r->beams.size() * std::size_t(width));
    ops::sampling_options const greedy{.temperature = 0};
    ops::sample_row likeliest_of_beam{
        .logits = logits.data() + row * vocabulary(),
        .options = &greedy,
        .likeliest = std::span(r->beams_likeliest).subspan(std::size_t(s.sample * width), std::size_t(width))};
    sample(likeliest_of_beam);
    if (++r->beams_ready < index_t(r->beams.size())) return;
    r->beams_ready = 0;
    auto const next = r->search->advance(r->beams_likeliest);
    std::vector<infer::sequence_id> beams(next.size(), -1);
    for (std::size_t b = 0; b < r->beams.size(); ++b) {
      auto const heir = std::find_if(next.begin(), next.end(), [&](auto const& n) { return n.parent == index_t(b); });
      if (heir != next.end()) {
        beams[std::size_t(heir - next.begin())] = r->beams[b];
      } else {
        schedule->drop(r->beams[b]);
        live.erase(r->beams[b]);
      }
    }
    for (std::size_t k = 0; k < next.size(); ++k)
      if (beams[k] < 0) beams[k] = schedule->fork(r->beams[std::size_t(next[k].parent)]);
    for (std::size_t k = 0; k < next.size(); ++k) {
      schedule->commit(beams[k], {&next[k].token.token, 1});
      live[beams[k]] = {r, index_t(k), true};
    }
    r->beams = std::move(beams);
    if (next.empty()) hand_out_found(*r);
  }
  void hand_out_found(request_state& r) {
    auto const found = r.search->found();
    for (index_t k = 0; k < r.asked.samples; ++k) {
      if (k >= index_t(found.size())) {
        hand_out(r, {.sample = k, .end = infer::finish::failed});
        continue;
      }
      auto const& tokens = found[std::size_t(k)].tokens;
      for (std::size_t i = 0; i < tokens.size(); ++i)
        if (!hand_out(r, {.sample = k,
                          .token = tokens[i].token,
                          .log_probability = tokens[i].value,
                          .end = i + 1 < tokens.size() ? infer::finish::no : end_of(r.asked, tokens[i].token, true)}))
          break;
    }
  }
  static infer::finish end_of(infer::generation const& asked, std::int32_t token, bool is_last) {
    auto const& ends = asked.stop_tokens;
    bool const stops = std::find(ends.begin(), ends.end(), token) != ends.end();
    return stops ? infer::finish::stopped : is_last ? infer::finish::length : infer::finish::no;
  }
  void sample(ops::sample_row& r) {
    ops::sample(exec, ops::sample_args{.rows = {&r, 1},
                                       .vocabulary = vocabulary(),
                                       .leaf_vocabulary = arithmetic::feature_leaf(vocabulary())});
  }

  bool hand_out(request_state& r, infer::new_token const& t) {
    try {
      return r.sink(t);
    } catch (...) {
      if (!thrown) thrown = std::current_exception();
      return false;
    }
  }
  static infer::request_id take_last(std::vector<infer::request_id>& ids) {
    auto const id = ids.back();
    ids.pop_back();
    return id;
  }

  std::unique_ptr<comm::mesh<world_type>> ranks;
  infer::model_file file;
  engine_options settings;
  exec::host_context exec;
  infer::file_weights weights;
  std::unique_ptr<text::tokenizer> words;
  std::optional<scheduler_type> schedule;
  std::unique_ptr<infer::runner> network;
  std::unique_ptr<infer::draft_model> guesses;
  std::unordered_map<infer::sequence_id, sample_state> live;
  infer::step_batch batch;
  std::vector<float> logits;
  std::vector<ops::token_value> likeliest;
  std::vector<std::int32_t> drawn;
  bool is_drawing = false;
  std::vector<infer::request_id> to_cancel;  ///< by sinks
  std::exception_ptr thrown;                 ///< by a sink
};

}  // namespace tenon
