// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a rank keeps of a model: parameters, gradients and optimizer state, shared out among the replicas as the
/// ZeRO stage says, reduced and gathered bucket by bucket while blocks compute.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/comm/mesh.hpp>
#include <tenon/comm/placement.hpp>
#include <tenon/comm/reduce.hpp>
#include <tenon/comm/stream.hpp>
#include <tenon/core/file_block.hpp>
#include <tenon/nn/initialize.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/grad_norm.hpp>
#include <tenon/optim/optimizer.hpp>
#include <tenon/parallel/gradient_tree.hpp>
#include <tenon/parallel/receipt.hpp>
#include <tenon/parallel/sharding.hpp>
#include <tenon/policy/set.hpp>

namespace tenon::parallel {

/// Which samples of a step a rank works on, micro-batch by micro-batch.
struct sample_plan {
  index_t micro = 1;       ///< samples of a micro-batch of one rank
  index_t accumulate = 1;  ///< micro-batches of a rank
  int groups = 1;          ///< ranks that work on different samples, this one being `group`
  int group = 0;
  bool eager = false;  ///< gradients are reduced after each micro-batch: its samples on all ranks are consecutive
  /// Number of micro-batch m of this rank, over all ranks: its samples are [number * micro, (number + 1) * micro).
  index_t number(index_t m) const { return eager ? m * groups + group : group * accumulate + m; }
};

/// What is known of a model, or of a stage of it, but for the types of its blocks.
struct model_outline {
  std::vector<parameter_spec> specs{};
  std::vector<nn::bucket_begin> begins{};
  index_t size = 0, layers = 0, first_layer = 0;  ///< the first of the whole model's that is here
  bool tied = false, has_embedding = false, has_head = false;

  template <class Network>
  explicit model_outline(Network const& net)
      : layers(index_t(net.layers.layers.size())), first_layer(net.layers.first), tied(net.tied),
        has_embedding(net.has_embedding), has_head(net.has_head) {
    nn::binder<float const> describe(&specs, &begins);
    net.bind(describe);
    size = describe.size();
  }
};

/// The buffers of one rank, whatever the model.
///
/// Gradients. Lazy: micro-batches are added in a tree of whole buffers, and what is left is reduced once a step, each
/// bucket as soon as backward has written it. Eager (ZeRO 2 and 3, context and expert parallelism, whose ranks hold parts
/// of one sample, or of what several samples need): every micro-batch is reduced at once, and the tree adds what this replica owns.
/// Parameters. Stage 3 keeps what a replica owns; layers are gathered into two buffers in turn, one layer ahead.
template <class Set, comm::Communicator C, class Context>
class rank_buffers {
 public:
  using value_type = typename Set::precision::param_type;
  static constexpr int stage = Set::zero::stage;

  /// @param folder for memory::offload<file_backed>
  rank_buffers(Context& context, model_outline const& outline, comm::mesh<C>& ranks, sample_plan const& samples,
               std::uint64_t seed, std::filesystem::path const& folder)
      : exec(context), network(outline), mesh(ranks), plan(samples), offload_folder(folder), flat_size(network.size),
        replicas(ranks.replicas) {
    if (ranks.expert.size() > 1) expert_replicas.emplace(ranks.data);
    for (auto const& s : network.specs)
      if (counts(s)) counted.push_back(s);
    constexpr bool keep_whole = std::same_as<typename Set::optimizer, optimizer::muon>;
    auto const& of_experts = expert_replicas ? *expert_replicas : replicas;
    buckets = make_buckets(network.specs, network.begins, flat_size, replicas.place(), of_experts.place(), keep_whole);
    compact = compact_size(buckets);
    // The two gradients of a token table that is a head too are summed apart: each has a tree of its own.
    if (network.tied && network.has_embedding && network.has_head && plan.groups * plan.accumulate > 1)
      add_table_bucket();
    gathers.resize(buckets.size());
    reductions.resize(buckets.size());
    allocate_parameters();
    initialize(seed);
    first = state_buffer(state_size());
    if (Set::optimizer::state_tensors > 1) second = state_buffer(state_size());
  }

  /// See trainer::record.
  void record(profile::rank_recorder* r) {
    auto const record_in = [r](holders& of) {
      profile::recorder* const beside = r ? &r->background.emplace_back() : nullptr;
      of.stream.record(beside, r ? &r->computation : nullptr);
      of.copies.profiler = beside;  // the stream's, which is idle now
    };
    record_in(replicas);
    if (expert_replicas) record_in(*expert_replicas);
  }
  /// See trainer::record_receipts.
  void record_receipts(receipt::recorder* r) {
    receipts = r;
    tensor_numbers.clear();
    if (r)
      for (auto const& s : network.specs) tensor_numbers.push_back(r->number_of(s.name));
  }
  /// Hashes the state as it is: where there is no update that does.
  void hash_state() {
    for (std::size_t b = 0; b < own_buckets(); ++b)
      for_each_in(held(b), [&](parameter_spec const& s, std::size_t tensor) {
        hash_state(b, s, tensor, false), hash_state(b, s, tensor, true);
      });
  }

  // ---- a micro-batch

  /// What blocks call on their way through the layers.
  struct hooks {
    rank_buffers* state = nullptr;
    bool writes_gradients = false;
    arena const* offloaded = nullptr;  ///< what layers have saved
    void before_layer(index_t i, bool backward) const {
      if (offloaded) offloaded->evict();
      state->before_layer(i, backward, writes_gradients);
    }
    void after_backward(index_t i) const { state->after_backward(i); }
    template <class T>
    void result(index_t i, bool backward, matrix_view<T> const& values) const {
      if (state->receipts && state->receipts->active())
        state->hash_result(i, backward, values.data(), sizeof(T), values.size());
    }
  };
  /// Makes sure that what is outside the layers is there: call before a pass.
  void before_pass() {
    for (std::size_t b : {table, positions, norm_bucket(), head_bucket()}) need(b), hash_read(b, -1, false);
  }
  /// Where the gradients that the next micro-batch writes over begin: from one micro-batch to the next all of them move by
  /// the same distance.
  float* gradients_begin() { return plan.eager ? written->memory[0].data() : whole->next(); }
  /// Until backward writes them, gradients of layers that come before are free memory (docs/decisions/0005).
  static constexpr bool lends_gradients() { return stage < 2; }
  /// Where the embedding's gradient goes when the head shares its table; empty: it is added to the head's.
  matrix_view<float> table_gradient(matrix_view<float> table) {
    if (!table_bucket) return {};
    float* const base = plan.eager ? written->bases[table_bucket] : whole->next() + buckets[table_bucket].range.begin;
    return matrix(base, table.extent(0), table.extent(1));
  }
  /// The micro-batch's gradients are written.
  void end_micro_batch() {
    finish(table), finish(positions);
    if (table_bucket) finish(table_bucket);
    if (!plan.eager) whole->close();
    else {
      wait_for_reductions();
      shards->close();
    }
  }

  // ---- a step

  /// Waits for the sums over all replicas.
  void finish_gradients() {
    wait_for_reductions();
    if (table_bucket)
      ops::add(exec, ops::add_args<float, float>{gradient(table).local(), gradient(table_bucket).local(),
                                                 buckets[table].own.size()});
  }
  /// What this replica owns of the gradient of a table whose embedding and head lie in different stages.
  std::span<float> shared_table_gradient() {
    if (!network.tied || network.has_embedding == network.has_head) return {};
    std::size_t const b = network.has_embedding ? table : head_bucket();
    return {gradient(b).local(), std::size_t(buckets[b].own.size())};
  }
  /// Adds the squares of the gradients that this rank owns; of what several ranks hold, one counts.
  void add_squares(comm::placed<exact_sum, comm::partial<comm::world_axis>>& squares) {
    norm_parts.clear();
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      if (receipts) hash_gradient(receipt::event::reduced, b, buckets[b].own, gradient(b).local());
      if (holders_of(b).counts()) append_norm_parts(norm_parts, counted, buckets[b].own, gradient(b).local());
    }
    comm::placed<std::span<ops::norm_part const>, comm::shard<comm::world_axis>> const parts(norm_parts);
    comm::add(squares, comm::sum_of_squares(parts, [&](auto const& these, exact_sum& sum) {
                ops::grad_norm(exec, ops::grad_norm_args{these, nullptr, &sum});
              }));
  }
  /// One step of the update rule. @param scale multiplies every gradient
  void update(optim::optimizer_options const& options, float learning_rate, index_t step, float scale) {
    if constexpr (stage == 0) spread_gradients();
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      if (stage == 0) holders_of(b).stream.wait(reductions[b]);
      auto const update = [&](std::span<parameter_spec const> specs) {
        optim::update<typename Set::optimizer>(
            exec, specs,
            optim::optimizer_buffers<value_type>{master_of(b), comm::reduced(updated_gradient(b)), at(first, b),
                                                 at(second, b), copy_of(b)},
            options, learning_rate, step, scale);
      };
      if (receipts) update_with_receipts(b, update);
      else update(updated_specs(b));
      evict(b);
      if constexpr (stage == 1 || stage == 2) gather(b);
    }
    if constexpr (stage == 3) forget_gathered();
  }

  // ---- whole parameters, for files and tests

  /// Calls f(there, values, n) for what this rank owns of a parameter of the whole model: n values that are its elements
  /// from number `there` on. Over all ranks, each element is visited once.
  template <class F>
  void for_each_owned(state_kind kind, std::string_view name, F&& f) {
    for (auto const& s : counted)
      if (s.name == name) visit(kind, s, false, f);
  }
  /// The same for all that this rank holds.
  template <class F>
  void for_each_held(state_kind kind, std::string_view name, F&& f) {
    for (auto const& s : network.specs)
      if (s.name == name) visit(kind, s, true, f);
  }
  /// The rounded copies that blocks read follow the parameters that were written.
  void restored() {
    if constexpr (stage == 3) forget_gathered();
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      if constexpr (rounds && stage < 3) {
        stretch const range = held(b);
        ops::convert(exec, ops::convert_args<value_type, float>{copy.data() + range.begin, master_of(b), range.size()});
        if constexpr (stage > 0) gather(b);
      }
      evict(b);
    }
  }
  /// The reduced gradients of this rank's last step, where they lie in one buffer.
  std::span<float const> last_gradients() const { return {result, std::size_t(result ? flat_size : 0)}; }
  /// Bytes of parameters, gradients and optimizer state that this rank holds.
  std::size_t bytes() const {
    std::size_t n = sizeof(float) * std::size_t(master.size() + first.size() + second.size()) +
                    sizeof(value_type) * std::size_t(copy.size());
    for (auto const& b : gathered) n += sizeof(value_type) * std::size_t(b.size());
    if (whole) n += whole->bytes();
    if (written)
      for (auto const& b : written->memory) n += sizeof(float) * std::size_t(b.size());
    if (shards) n += shards->bytes();
    return n;
  }

 protected:
  /// Where the buckets lie that blocks read, and those that the next micro-batch's gradients are written to.
  std::vector<value_type const*> parameter_bases() {
    if constexpr (stage == 3) return {gathered_bases.begin(), gathered_bases.end()};
    else return bases_in<value_type const>(blocks_read());
  }
  std::vector<float*> gradient_bases() { return plan.eager ? written->bases : bases_in<float>(whole->next()); }
  /// Makes them fit to be written.
  void prepare_gradients() {
    if (!whole && !written) allocate_gradients();
    if (plan.eager) wait_for_reductions();
  }

 private:
  template <class T>
  std::vector<T*> bases_in(T* flat) const {
    std::vector<T*> bases;
    for (std::size_t b = 0; b < own_buckets(); ++b) bases.push_back(flat + buckets[b].range.begin);
    return bases;
  }

  static constexpr bool rounds = !std::same_as<value_type, float>;
  static constexpr bool compact_master = stage == 3 || (stage > 0 && rounds);
  static constexpr bool rotates = stage >= 2;  // gradients of layers share buffers; from stage 3 on parameters too

  /// The ranks that hold the same parameters. Each owns a shard of them; `hybrid<M>`: shards are cut over M neighbours, and
  /// the groups of M are copies of each other.
  struct holders {
    explicit holders(C& all)
        : size(shards_of(all)), group(all.split(all.rank() / size, all.rank())),
          copies(all.split(all.rank() % size, all.rank())), stream(group) {}
    static int shards_of(C const& all) {
      constexpr int m = int(Set::zero::sharding::group);
      if (m > 1 && all.size() % m != 0)
        throw argument_error("tenon::parallel: hybrid<" + std::to_string(m) + "> does not divide the " +
                             std::to_string(all.size()) + " ranks that hold the same parameters. Fix: a divisor.");
      return m > 1 ? m : all.size();
    }
    replica_of place() const { return {group.size(), group.rank()}; }
    /// Of several copies the first one stands for all.
    bool counts() const { return copies.rank() == 0; }
    int ranks() const { return group.size() * copies.size(); }

    int size;
    C group, copies;
    std::optional<comm::node_sum> sum;
    std::vector<int> nodes_of_rank;
    comm::stream<C> stream;  // last: its work is done before what it works on goes away
  };
  holders& holders_of(std::size_t b) { return buckets[b].experts && expert_replicas ? *expert_replicas : replicas; }
  void wait_for_reductions() {
    for (std::size_t b = 0; b < buckets.size(); ++b) holders_of(b).stream.wait(reductions[b]);
  }

  // As nn::transformer::bind orders them: a layer is one bucket, and one more for the experts of a mixture.
  static constexpr std::size_t table = 0, positions = 1, first_layer = 2;
  std::size_t norm_bucket() const { return network.begins.size() - 2; }
  std::size_t head_bucket() const { return network.begins.size() - 1; }
  bool is_layer(std::size_t b) const { return b >= first_layer && b < norm_bucket(); }
  std::size_t own_buckets() const { return network.begins.size(); }
  /// f(bucket) for those of layer i; `layers` stands for the last norm and the head.
  template <class F>
  void for_layer(index_t i, F&& f) const {
    if (i < 0) return;
    for (std::size_t b = first_layer, layer = 0; b < norm_bucket(); ++b) {
      if (b > first_layer && !buckets[b].experts) ++layer;
      if (layer == std::size_t(i)) f(b);
    }
    if (i == network.layers) f(norm_bucket()), f(head_bucket());
  }

  void add_table_bucket() {
    table_bucket = buckets.size();
    bucket b = buckets[table];
    index_t const moved = flat_size - b.range.begin;
    b.range = {b.range.begin + moved, b.range.end + moved};
    b.own = {b.own.begin + moved, b.own.end + moved};
    b.compact = compact;
    buckets.push_back(b);
  }
  index_t compact_gradients() const { return compact_size(buckets); }
  index_t flat_gradients() const { return buckets.back().range.end; }
  index_t state_size() const { return stage == 0 ? flat_size : compact; }
  /// What of bucket b this rank updates and keeps optimizer state of.
  stretch held(std::size_t b) const { return stage == 0 ? buckets[b].range : buckets[b].own; }
  std::vector<parameter_spec> const& updated_specs(std::size_t b) {
    if (clipped.empty())
      for (std::size_t i = 0; i < own_buckets(); ++i) clipped.push_back(clip(network.specs, held(i)));
    return clipped[b];
  }

  /// Where buckets lie: the layers' in two buffers by turns, or all in one.
  template <class T>
  std::vector<T*> place(std::vector<flat_buffer<T>>& memory, std::size_t count, bool by_turns) const {
    std::vector<std::size_t> buffer(count, 0);
    std::vector<index_t> offset(count, 0);
    std::array<index_t, 3> sizes{};
    auto const add = [&](std::size_t b, std::size_t to, index_t at) {
      buffer[b] = to, offset[b] = at;
      sizes[to] = std::max(sizes[to], at + round_up(buckets[b].range.size(), lanes));
    };
    for (std::size_t b = 0; b < count; ++b)
      if (!by_turns || !is_layer(b)) add(b, 0, sizes[0]);
    for (index_t i = 0; by_turns && i < network.layers; ++i) {
      index_t at = 0;
      for_layer(i, [&](std::size_t b) {
        add(b, 1 + std::size_t(i) % 2, at);
        at += round_up(buckets[b].range.size(), lanes);
      });
    }
    for (index_t size : sizes) memory.emplace_back(size);
    std::vector<T*> bases;
    for (std::size_t b = 0; b < count; ++b) bases.push_back(memory[buffer[b]].data() + offset[b]);
    return bases;
  }

  // ---- parameters

  void allocate_parameters() {
    if constexpr (stage == 3 || rounds) master = state_buffer(compact_master ? compact : flat_size);
    else master = flat_buffer<float>(flat_size);
    if constexpr (stage == 3) {
      gathered_bases = place(gathered, own_buckets(), true);
      forget_gathered();
    } else if constexpr (rounds) {
      copy = flat_buffer<value_type>(flat_size);
    }
  }
  value_type* blocks_read() {
    if constexpr (rounds) return copy.data();
    else return master.data();
  }
  void initialize(std::uint64_t seed) {
    if constexpr (!compact_master) nn::initialize(network.specs, master.data(), seed);
    else
      for (std::size_t b = 0; b < own_buckets(); ++b) {
        std::vector<float> all(std::size_t(buckets[b].range.size()));
        nn::initialize(clip(network.specs, buckets[b].range), all.data(), seed);
        std::copy_n(all.data() + (buckets[b].own.begin - buckets[b].range.begin), buckets[b].own.size(), master_of(b));
      }
    restored();
  }
  /// What an update reads and writes, and nothing else: it may be offloaded.
  flat_buffer<float> state_buffer(index_t n) const {
    if constexpr (memory::is_in_file<typename Set::memory>)
      return {extents<dynamic>(n), file_block(std::size_t(n) * sizeof(float), offload_folder)};
    else return flat_buffer<float>(n);
  }
  /// Bucket b's part of that is not needed soon.
  void evict(std::size_t b) const {
    master.evict(master_begin(b), held(b).size());
    first.evict(state_begin(b), held(b).size());
    second.evict(state_begin(b), held(b).size());
  }
  index_t master_begin(std::size_t b) const { return compact_master ? buckets[b].compact : held(b).begin; }
  index_t state_begin(std::size_t b) const { return stage == 0 ? buckets[b].range.begin : buckets[b].compact; }
  float* master_of(std::size_t b) { return master.data() + master_begin(b); }
  value_type* copy_of(std::size_t b) { return rounds && stage < 3 ? copy.data() + held(b).begin : nullptr; }
  float* at(flat_buffer<float>& buffer, std::size_t b) {
    return buffer.size() ? buffer.data() + state_begin(b) : nullptr;
  }
  /// Gathers the replicas' parts of bucket b, behind the scenes; `need` waits for it.
  void gather(std::size_t b) {
    if (buckets[b].range.size() == 0 || (stage < 3 && holders_of(b).size == 1)) return;
    value_type* const to = stage == 3 ? gathered_bases[b] : blocks_read() + buckets[b].range.begin;
    float const* const own = stage == 3 ? master_of(b) : nullptr;
    gathers[b] = holders_of(b).stream.enqueue([this, b, to, own](C& group) {
      auto const& k = buckets[b];
      if (own) {
        std::transform(own, own + k.own.size(), to + (k.own.begin - k.range.begin),
                       [](float v) { return value_type(v); });
        master.evict(k.compact, k.own.size());
      }
      group.all_gather(std::as_writable_bytes(std::span(to, std::size_t(k.range.size()))),
                       k.byte_cuts(sizeof(value_type)));
    });
    if (stage == 3) is_gathered[b] = true;
  }
  void gather_if_away(std::size_t b) {
    if (stage == 3 && !is_gathered[b]) gather(b);
  }
  void need(std::size_t b) {
    gather_if_away(b);
    holders_of(b).stream.wait(gathers[b]);
  }
  void forget_gathered() { is_gathered.assign(own_buckets(), false); }
  /// Brings layer i into its buffer, which another layer may have been in.
  void gather_layer(index_t i) {
    index_t const layers = network.layers;
    if (stage < 3 || i < 0 || i >= layers) return;
    bool away = false;
    for_layer(i, [&](std::size_t b) { away = away || !is_gathered[b]; });
    for (index_t other = i % 2; away && other < layers; other += 2)
      for_layer(other, [&](std::size_t b) { is_gathered[b] = false; });
    for_layer(i, [&](std::size_t b) { gather_if_away(b); });
  }
  void before_layer(index_t i, bool backward, bool writes_gradients) {
    gather_layer(i);
    for_layer(i, [&](std::size_t b) { need(b), hash_read(b, network.first_layer + i, backward); });
    gather_layer(backward ? i - 1 : i + 1);
    if (rotates && backward && writes_gradients)
      for_layer(i + 2, [&](std::size_t b) {
        if (is_layer(b)) holders_of(b).stream.wait(reductions[b]);
      });
  }

  // ---- gradients

  void after_backward(index_t i) {
    for_layer(i, [&](std::size_t b) { finish(b); });
  }
  struct written_buffers {
    std::vector<flat_buffer<float>> memory;
    std::vector<float*> bases;
  };
  void allocate_gradients() {
    if (!plan.eager) {
      whole.emplace(flat_gradients(),
                    micro_batch_range{plan.group * plan.accumulate, plan.accumulate, plan.groups * plan.accumulate});
      std::vector<comm::tree_node> nodes;  // of all replicas
      for (int g = 0; g < plan.groups; ++g) {
        auto const theirs =
            comm::canonical_nodes(g * plan.accumulate, (g + 1) * plan.accumulate, plan.groups * plan.accumulate);
        replicas.nodes_of_rank.push_back(int(theirs.size()));
        nodes.insert(nodes.end(), theirs.begin(), theirs.end());
      }
      replicas.sum.emplace(std::move(nodes));
      return;
    }
    written.emplace();
    written->bases = place(written->memory, buckets.size(), rotates);
    shards.emplace(compact_gradients(), micro_batch_range{0, plan.accumulate, plan.accumulate});
    for (holders* h : {&replicas, expert_replicas ? &*expert_replicas : nullptr})
      if (h) {
        h->nodes_of_rank.assign(std::size_t(h->size), 1);
        h->sum.emplace(h->size);
      }
  }
  /// The gradients of bucket b are written.
  void finish(std::size_t b) {
    auto const range = buckets[b].range;
    if (range.size() == 0) return;
    bool const is_summed = plan.eager || plan.accumulate > 1 || replicas.size > 1;
    if (receipts && is_summed)
      hash_gradient(receipt::event::gradient, b, range, plan.eager ? written->bases[b] : whole->next() + range.begin);
    if (plan.eager) {
      float* const to = shards->next() + buckets[b].compact;
      reductions[b] = holders_of(b).stream.enqueue([this, b, to](C& group) {
        float const* const mine = written->bases[b];
        reduce(group, b, summands(std::span(&mine, 1)), to);
        shards->close(buckets[b].compact, buckets[b].compact + buckets[b].own.size(),
                      [](float* sum, float const* other, index_t n) {
                        for (index_t i = 0; i < n; ++i) sum[i] += other[i];
                      });
      });
      return;
    }
    whole->close(range.begin, range.end, [&](float* sum, float const* other, index_t n) {
      ops::add(exec, ops::add_args<float, float>{sum, other, n});
    });
    if (!whole->is_last()) return;
    result = whole->nodes()[0];
    if (replicas.size == 1) return;
    if (receipts && plan.accumulate > 1)
      for (float const* node : whole->nodes())
        hash_gradient(receipt::event::gradient_sum, b, range, node + range.begin);
    reductions[b] =
        replicas.stream.enqueue([this, b, nodes = whole->nodes(), to = result + buckets[b].own.begin](C& group) {
          std::array<float const*, 32> mine;
          for (std::size_t i = 0; i < nodes.size(); ++i) mine[i] = nodes[i] + buckets[b].range.begin;
          reduce(group, b, summands(std::span(mine).first(nodes.size())), to);
        });
  }
  /// Of the gradient of a bucket: this rank's summands, and what it owns of the sum over all that hold the bucket.
  using summands = comm::placed<std::span<float const* const>, comm::partial<comm::replicas_axis>>;
  using owned_sum = comm::placed<float*, comm::shard<comm::replicas_axis>>;
  void reduce(C& group, std::size_t b, summands mine, float* to) {
    auto const& cuts = buckets[b].cuts;
    std::size_t const own = cuts[std::size_t(group.rank())];
    holders& h = holders_of(b);
    group.visit_shards(mine.local(), h.nodes_of_rank, cuts,
                       [&](std::size_t begin, std::size_t end, std::span<float const* const> all) {
                         (*h.sum)(to + (begin - own), all, end - begin);
                       });
    comm::all_reduce(h.copies, std::span(to, std::size_t(buckets[b].own.size())));
  }
  /// The reduced gradient of what this replica owns of bucket b.
  owned_sum gradient(std::size_t b) {
    return owned_sum(plan.eager ? shards->nodes()[0] + buckets[b].compact : result + buckets[b].own.begin);
  }
  /// Stage 0: every replica updates everything, so it needs all gradients.
  void spread_gradients() {
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      if (buckets[b].range.size() == 0 || (!plan.eager && replicas.size == 1)) continue;
      float* const to = full_gradient(b);
      if (plan.eager)
        std::copy_n(gradient(b).local(), buckets[b].own.size(), to + (buckets[b].own.begin - buckets[b].range.begin));
      reductions[b] = holders_of(b).stream.enqueue([this, b, to](C& group) {
        group.all_gather(std::as_writable_bytes(std::span(to, std::size_t(buckets[b].range.size()))),
                         buckets[b].byte_cuts(sizeof(float)));
      });
    }
  }
  float* full_gradient(std::size_t b) { return plan.eager ? written->bases[b] : result + buckets[b].range.begin; }
  auto updated_gradient(std::size_t b) {
    if constexpr (stage == 0) return comm::placed<float*>(full_gradient(b));
    else return gradient(b);
  }

  // ---- receipts

  /// Adds what `part` has of a parameter to the item that was started. @param values of element part.begin
  template <class T>
  std::uint64_t hash_part(parameter_spec const& s, stretch part, T const* values) {
    std::uint64_t sum = 0;
    s.for_each_run([&](index_t here, index_t there, index_t n) {
      auto const run = intersection({s.offset + here, s.offset + here + n}, part);
      if (run.size() > 0)
        sum += receipts->add(exec.pool(), values + (run.begin - part.begin), sizeof(T), run.size(),
                             there + run.begin - s.offset - here);
    });
    return sum;
  }
  /// f(spec, number among the recorder's) for the parameters that have something in `part`.
  template <class F>
  void for_each_in(stretch part, F&& f) {
    for (std::size_t i = 0; i < network.specs.size(); ++i)
      if (auto const& s = network.specs[i]; intersection(stretch_of(s), part).size() > 0) f(s, tensor_numbers[i]);
  }
  /// Of parameters that this rank counts, what it owns goes into the total of all ranks.
  void add_total(receipt::total of, std::size_t b, parameter_spec const& s, std::size_t tensor, std::uint64_t sum) {
    if (holders_of(b).counts() && counts(s)) receipts->totals[std::size_t(of)][tensor] += sum;
  }
  void hash_result(index_t layer, bool backward, void const* values, std::size_t bytes, index_t n) {
    using receipt::event;
    index_t const begin = network.first_layer, end = begin + network.layers;
    bool const received = backward ? layer == end && !network.has_head : layer < begin && !network.has_embedding;
    receipts->start(
        backward ? (received ? event::received_back : event::backward) : (received ? event::received : event::forward),
        layer);
    receipts->add(exec.pool(), values, bytes, n, 0);
  }
  /// What blocks read of bucket b, where other ranks had a part in it: under stage 3 each time, else once a step.
  void hash_read(std::size_t b, index_t layer, bool backward) {
    if (stage == 0 || !receipts || !receipts->active()) return;
    if (stage < 3 && (backward || !receipts->is_first_of_step || holders_of(b).size == 1)) return;
    value_type const* values;
    if constexpr (stage == 3) values = gathered_bases[b];
    else values = blocks_read() + buckets[b].range.begin;
    for_each_in(buckets[b].range, [&](parameter_spec const& s, std::size_t tensor) {
      receipts->start(backward ? receipt::event::read_back : receipt::event::read, layer, tensor);
      hash_part(s, buckets[b].range, values);
    });
  }
  /// @param values gradient of element part.begin
  void hash_gradient(receipt::event what, std::size_t b, stretch part, float const* values) {
    std::size_t const of = table_bucket && b == table_bucket ? table : b;
    if (of != b) part = buckets[of].range;
    for_each_in(part, [&](parameter_spec const& s, std::size_t tensor) {
      receipts->start(what, 0, tensor);
      auto const sum = hash_part(s, part, values);
      if (what == receipt::event::reduced) add_total(receipt::total::gradient, b, s, tensor, sum);
    });
  }
  /// What an update reads and writes of a parameter of bucket b, but for the gradient.
  void hash_state(std::size_t b, parameter_spec const& s, std::size_t tensor, bool after) {
    auto const hash = [&](receipt::tensor_kind kind, auto const* values) {
      if (!values) return;
      std::size_t const number = std::size_t(kind) * receipts->names.size() + tensor;
      stretch const all = held(b), own = buckets[b].own;
      if (after) receipts->start(receipt::event::after, 0, number);
      else receipts->start_check();
      std::uint64_t const mine = hash_part(s, own, values + (own.begin - all.begin));
      std::uint64_t const sum = mine + hash_part(s, {all.begin, own.begin}, values) +
                                hash_part(s, {own.end, all.end}, values + (own.end - all.begin));
      if (!after) return receipts->found(number, sum);
      receipts->left(sum);
      if (kind != receipt::tensor_kind::rounded) add_total(receipt::total(int(kind) + 1), b, s, tensor, mine);
    };
    hash(receipt::tensor_kind::parameter, master_of(b));
    hash(receipt::tensor_kind::first, at(first, b));
    hash(receipt::tensor_kind::second, at(second, b));
    hash(receipt::tensor_kind::rounded, copy_of(b));
  }
  /// Parameter by parameter: what is hashed is then on its way into the cache, or still there.
  template <class Update>
  void update_with_receipts(std::size_t b, Update&& update) {
    if (stage == 0 && (plan.eager || replicas.size > 1))
      hash_gradient(receipt::event::spread, b, held(b), full_gradient(b));
    std::size_t next = 0;
    for_each_in(held(b), [&](parameter_spec const& s, std::size_t tensor) {
      hash_state(b, s, tensor, false);
      update(std::span(updated_specs(b)).subspan(next++, 1));
      hash_state(b, s, tensor, true);
    });
  }

  // ---- whole parameters

  float* buffer_of(state_kind kind, std::size_t b, stretch part) {
    if (kind == state_kind::parameters) return master_of(b) + (part.begin - held(b).begin);
    return at(kind == state_kind::first ? first : second, b) + (part.begin - held(b).begin);
  }
  template <class F>
  void visit(state_kind kind, parameter_spec const& s, bool all_held, F& f) {
    std::size_t b = own_buckets() - 1;
    while (buckets[b].range.begin > s.offset) --b;
    bool const whole_bucket = kind == state_kind::parameters && !compact_master;
    if (!all_held && !holders_of(b).counts()) return;
    auto const mine = !all_held ? buckets[b].own : whole_bucket ? buckets[b].range : held(b);
    s.for_each_run([&](index_t here, index_t there, index_t n) {
      stretch const run{s.offset + here, s.offset + here + n};
      auto const part = intersection(run, mine);
      if (part.size() > 0) f(there + (part.begin - run.begin), buffer_of(kind, b, part), part.size());
    });
    evict(b);
  }
  /// This rank's copy of a parameter is the one that counts: not that of a table which another stage has too, and of what
  /// all tensor ranks hold that of the first.
  bool counts(parameter_spec const& s) const {
    bool const copy_of_table = network.tied && !network.has_embedding && s.kind == parameter_kind::embedding;
    return !copy_of_table && (s.is_sharded() || mesh.tensor.rank() == 0);
  }

  Context& exec;
  model_outline network;
  comm::mesh<C>& mesh;
  sample_plan plan;
  std::filesystem::path offload_folder;
  index_t flat_size, compact = 0;
  std::vector<parameter_spec> counted;
  std::vector<bucket> buckets;
  std::size_t table_bucket = 0;  ///< of the embedding's own gradient; 0: there is none
  std::vector<std::vector<parameter_spec>> clipped;

  flat_buffer<float> master, first, second;
  flat_buffer<value_type> copy;
  std::vector<flat_buffer<value_type>> gathered;
  std::vector<value_type*> gathered_bases;
  std::vector<char> is_gathered;

  std::optional<gradient_tree> whole;      ///< lazy
  std::optional<written_buffers> written;  ///< eager
  std::optional<gradient_tree> shards;     ///< eager
  float* result = nullptr;
  std::vector<ops::norm_part> norm_parts;
  receipt::recorder* receipts = nullptr;
  std::vector<std::size_t> tensor_numbers;  ///< of `network.specs`, in the recorder

  std::vector<typename comm::stream<C>::request> gathers, reductions;
  holders replicas;  // last, with what follows: its work is done before what it works on goes away
  std::optional<holders> expert_replicas;
};

/// The buffers of one rank, bound to a model's blocks: all that depends on their types.
template <class Set, class Network, comm::Communicator C, class Context>
class model_state : public rank_buffers<Set, C, Context> {
  using buffers = rank_buffers<Set, C, Context>;

 public:
  using parameters_type = typename Network::template parameters<typename buffers::value_type const>;
  using gradients_type = typename Network::template parameters<float>;

  /// @param net all of a model, or a stage of it; lives longer; the rest as for `rank_buffers`
  model_state(Context& context, Network const& net, comm::mesh<C>& ranks, sample_plan const& samples,
              std::uint64_t seed, std::filesystem::path const& folder)
      : buffers(context, model_outline(net), ranks, samples, seed, folder), network(net) {
    auto const bases = this->parameter_bases();
    nn::binder<typename buffers::value_type const> read(bases);
    read_by_blocks = net.bind(read);
  }
  parameters_type const& parameters() const { return read_by_blocks; }
  /// The gradients that the next micro-batch writes over.
  gradients_type const& next_gradients() {
    this->prepare_gradients();
    float const* const begin = this->gradients_begin();
    for (auto const& [at, gradients] : written_by_blocks)
      if (at == begin) return gradients;
    auto const bases = this->gradient_bases();
    nn::binder<float> write(bases);
    return written_by_blocks.emplace_back(begin, network.bind(write)).second;
  }

 private:
  Network const& network;
  parameters_type read_by_blocks;
  std::deque<std::pair<float const*, gradients_type>> written_by_blocks;  ///< and where each begins
};

}  // namespace tenon::parallel
