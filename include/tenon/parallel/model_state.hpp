// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a rank keeps of a model: parameters, gradients and optimizer state, shared out among the replicas as the
/// ZeRO stage says, reduced and gathered bucket by bucket while blocks compute.
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/comm/mesh.hpp>
#include <tenon/comm/reduce.hpp>
#include <tenon/comm/stream.hpp>
#include <tenon/nn/initialize.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/grad_norm.hpp>
#include <tenon/optim/optimizer.hpp>
#include <tenon/parallel/gradient_tree.hpp>
#include <tenon/parallel/sharding.hpp>
#include <tenon/policy/set.hpp>

namespace tenon::parallel {

/// Which of the buffers of a model is meant.
enum class state_kind { parameters, first, second };

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

/// The buffers of one rank.
///
/// Gradients. Lazy: micro-batches are added in a tree of whole buffers, and what is left is reduced once a step, each
/// bucket as soon as backward has written it. Eager (ZeRO 2 and 3, and context parallelism, whose ranks hold parts of one
/// sample): every micro-batch is reduced at once, and the tree adds what this replica owns.
/// Parameters. Stage 3 keeps what a replica owns; layers are gathered into two buffers in turn, one layer ahead.
template <class Set, class Network, comm::Communicator C, class Context>
class model_state {
 public:
  using value_type = typename Set::precision::param_type;
  using parameters_type = typename Network::template parameters<value_type const>;
  using gradients_type = typename Network::template parameters<float>;
  static constexpr int stage = Set::zero::stage;

  /// @param shared_table the token table is a head too, and the two gradients are to be kept apart until they are summed
  model_state(Context& context, Network const& net, comm::mesh<C>& ranks, sample_plan const& samples,
              std::uint64_t seed, bool shared_table)
      : exec(context), mesh(ranks), plan(samples), replicas(ranks.replicas.size()), stream(ranks.replicas) {
    nn::binder<float const> describe(&spec_list, &begins);
    net.bind(describe);
    flat_size = describe.size();
    for (auto const& s : spec_list)
      if (counts(s)) counted_specs.push_back(s);
    constexpr bool keep_whole = std::same_as<typename Set::optimizer, optimizer::muon>;
    buckets = make_buckets(spec_list, begins, flat_size, replicas, ranks.replicas.rank(), keep_whole);
    compact = compact_size(buckets);
    if (shared_table) add_table_bucket();
    gathers.resize(buckets.size());
    reductions.resize(buckets.size());
    allocate_parameters(net);
    initialize(seed);
    first = flat_buffer<float>(state_size());
    if (Set::optimizer::state_tensors > 1) second = flat_buffer<float>(state_size());
  }

  index_t size() const { return flat_size; }
  parameters_type const& parameters() const { return bound; }

  // ---- a micro-batch

  /// What blocks call on their way through the layers.
  struct hooks {
    model_state* state = nullptr;
    bool writes_gradients = false;
    void before_layer(index_t i, bool backward) const { state->before_layer(i, backward, writes_gradients); }
    void after_backward(index_t i) const { state->finish(layer_bucket(i)); }
  };
  /// Makes sure that what is outside the layers is there: call before a pass.
  void before_pass() {
    for (std::size_t b : {std::size_t(0), std::size_t(1), tail_bucket()}) need(b);
  }
  /// The gradients that the next micro-batch writes over.
  gradients_type const& next_gradients(Network const& net) {
    if (!whole && !written) allocate_gradients(net);
    if (plan.eager) {
      for (auto const& r : reductions) stream.wait(r);
      return written->bound;
    }
    return whole->next().bound;
  }
  /// Until backward writes them, gradients of layers that come before are free memory (docs/decisions/0005).
  bool lends_gradients() const { return stage < 2; }
  /// Where the embedding's gradient goes when the head shares its table; empty: it is added to the head's.
  matrix_view<float> table_gradient(matrix_view<float> table) {
    if (!table_bucket) return {};
    float* const base =
        plan.eager ? written->bases[table_bucket] : whole->next().values.data() + buckets[table_bucket].range.begin;
    return matrix(base, table.extent(0), table.extent(1));
  }
  /// The micro-batch's gradients are written.
  void end_micro_batch() {
    finish(0), finish(1);
    if (table_bucket) finish(table_bucket);
    if (!plan.eager) whole->close();
    else {
      for (auto const& r : reductions) stream.wait(r);
      shards->close();
    }
  }

  // ---- a step

  /// Waits for all gradients and adds the squares of those that this rank owns.
  void finish_gradients(exact_sum& squares) {
    for (auto const& r : reductions) stream.wait(r);
    if (table_bucket)
      ops::add(exec, ops::add_args<float, float>{gradient(0), gradient(table_bucket), buckets[0].own.size()});
    norm_parts.clear();
    for (std::size_t b = 0; b < own_buckets(); ++b)
      append_norm_parts(norm_parts, counted_specs, buckets[b].own, gradient(b));
    ops::grad_norm(exec, ops::grad_norm_args{norm_parts, nullptr, &squares});
  }
  /// One step of the update rule. @param scale multiplies every gradient
  void update(optim::optimizer_options const& options, float learning_rate, index_t step, float scale) {
    if (stage == 0 && replicas > 1) spread_gradients();
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      if (stage == 0) stream.wait(reductions[b]);
      optim::update<typename Set::optimizer>(
          exec, std::span<parameter_spec const>(updated_specs(b)),
          optim::optimizer_buffers<value_type>{master_of(b), updated_gradient(b), at(first, b), at(second, b),
                                               copy_of(b)},
          options, learning_rate, step, scale);
      if constexpr (stage == 1 || stage == 2)
        if (replicas > 1) gather(b);
    }
    if constexpr (stage == 3) forget_gathered();
  }

  // ---- whole parameters, for files and tests

  /// Parameter `spec` of the whole model into `out`, on every rank: a collective. @shape out [spec.size()]
  void read(state_kind kind, parameter_spec const& spec, std::span<float> out) {
    constexpr index_t piece = index_t(1) << 20;
    std::vector<std::int64_t> bits;
    for (index_t begin = 0; begin < spec.size(); begin += piece) {
      stretch const part{begin, std::min(spec.size(), begin + piece)};
      bits.assign(std::size_t(part.size()), 0);
      for_each_run(spec, part, [&](parameter_spec const& s, stretch here, index_t there) {
        if (!counts(s)) return;
        for_each_owned(kind, here, [&](stretch owned, float const* from) {
          for (index_t i = 0; i < owned.size(); ++i)
            bits[std::size_t(there - part.begin + owned.begin - here.begin + i)] = std::bit_cast<std::int32_t>(from[i]);
        });
      });
      mesh.world.sum(bits);  // each element has one owner: a sum of bits is the bits
      for (index_t i = 0; i < part.size(); ++i)
        out[std::size_t(begin + i)] = std::bit_cast<float>(std::int32_t(bits[std::size_t(i)]));
    }
  }
  /// Takes this rank's part of parameter `spec` of the whole model. `restored()` comes after the last one.
  void write(state_kind kind, parameter_spec const& spec, std::span<float const> values) {
    for_each_run(spec, {0, spec.size()}, [&](parameter_spec const&, stretch here, index_t there) {
      for_each_held(kind, here, [&](stretch held, float* to) {
        std::copy_n(values.data() + there + (held.begin - here.begin), held.size(), to);
      });
    });
  }
  /// The rounded copies that blocks read follow the parameters that were written.
  void restored() {
    if constexpr (stage == 3) forget_gathered();
    else if constexpr (rounds) {
      for (std::size_t b = 0; b < own_buckets(); ++b) {
        stretch const range = held(b);
        ops::convert(exec, ops::convert_args<value_type, float>{copy.data() + range.begin, master_of(b), range.size()});
        if (stage > 0 && replicas > 1) gather(b);
      }
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

 private:
  static constexpr bool rounds = !std::same_as<value_type, float>;
  static constexpr bool compact_master = stage == 3 || (stage > 0 && rounds);
  static constexpr bool rotates = stage >= 2;  // gradients of layers share buffers; from stage 3 on parameters too

  static constexpr std::size_t layer_bucket(index_t i) { return std::size_t(i) + 2; }
  std::size_t layers() const { return begins.size() - 3; }
  std::size_t tail_bucket() const { return begins.size() - 1; }
  bool is_layer(std::size_t b) const { return b >= 2 && b < tail_bucket(); }
  std::size_t own_buckets() const { return begins.size(); }

  void add_table_bucket() {
    table_bucket = buckets.size();
    bucket b = buckets[0];
    b.range = {flat_size, flat_size + b.range.size()};
    b.own = {b.own.begin - buckets[0].range.begin + flat_size, b.own.end - buckets[0].range.begin + flat_size};
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
      for (std::size_t i = 0; i < own_buckets(); ++i) clipped.push_back(clip(spec_list, held(i)));
    return clipped[b];
  }

  /// Memory in which the layers' buckets share two buffers, or all lie in one.
  template <class T>
  static std::vector<T*> place(std::vector<flat_buffer<T>>& memory, std::span<bucket const> all,
                               std::size_t first_layer, std::size_t end_layer, bool shared) {
    index_t resident = 0, largest = 0;
    for (std::size_t b = 0; b < all.size(); ++b) {
      bool const layer = shared && b >= first_layer && b < end_layer;
      index_t const size = round_up(all[b].range.size(), lanes);
      (layer ? largest : resident) = layer ? std::max(largest, size) : resident + size;
    }
    memory.emplace_back(resident);
    for (int i = 0; shared && i < 2; ++i) memory.emplace_back(largest);
    std::vector<T*> bases;
    T* next = memory[0].data();
    for (std::size_t b = 0; b < all.size(); ++b) {
      bool const layer = shared && b >= first_layer && b < end_layer;
      bases.push_back(layer ? memory[1 + b % 2].data() : next);
      if (!layer) next += round_up(all[b].range.size(), lanes);
    }
    return bases;
  }

  // ---- parameters

  void allocate_parameters(Network const& net) {
    master = flat_buffer<float>(compact_master ? compact : flat_size);
    if constexpr (stage == 3) {
      gathered_bases = place(gathered, std::span<bucket const>(buckets).first(own_buckets()), 2, tail_bucket(), true);
      std::vector<value_type const*> bases(gathered_bases.begin(), gathered_bases.end());
      nn::binder<value_type const> read(bases);
      bound = net.bind(read);
      forget_gathered();
    } else {
      if constexpr (rounds) copy = flat_buffer<value_type>(flat_size);
      nn::binder<value_type const> read(blocks_read());
      bound = net.bind(read);
    }
  }
  value_type* blocks_read() {
    if constexpr (rounds) return copy.data();
    else return master.data();
  }
  void initialize(std::uint64_t seed) {
    if constexpr (!compact_master) nn::initialize(spec_list, master.data(), seed);
    else
      for (std::size_t b = 0; b < own_buckets(); ++b) {
        std::vector<float> all(std::size_t(buckets[b].range.size()));
        nn::initialize(clip(spec_list, buckets[b].range), all.data(), seed);
        std::copy_n(all.data() + buckets[b].cuts[std::size_t(mesh.replicas.rank())], buckets[b].own.size(),
                    master_of(b));
      }
    restored();
  }
  float* master_of(std::size_t b) { return master.data() + (compact_master ? buckets[b].compact : held(b).begin); }
  value_type* copy_of(std::size_t b) { return rounds && stage < 3 ? copy.data() + held(b).begin : nullptr; }
  float* at(flat_buffer<float>& buffer, std::size_t b) {
    return buffer.size() ? buffer.data() + (stage == 0 ? buckets[b].range.begin : buckets[b].compact) : nullptr;
  }
  /// Gathers the replicas' parts of bucket b, behind the scenes; `need` waits for it.
  void gather(std::size_t b) {
    value_type* const to = stage == 3 ? gathered_bases[b] : blocks_read() + buckets[b].range.begin;
    float const* const own = stage == 3 ? master_of(b) : nullptr;
    gathers[b] = stream.enqueue([this, b, to, own](C& group) {
      auto const& k = buckets[b];
      if (own)
        std::transform(own, own + k.own.size(), to + (k.own.begin - k.range.begin),
                       [](float v) { return value_type(v); });
      group.all_gather(std::as_writable_bytes(std::span(to, std::size_t(k.range.size()))),
                       k.byte_cuts(sizeof(value_type)));
    });
    if constexpr (stage == 3) {
      for (std::size_t other = 0; other < own_buckets(); ++other)
        if (is_layer(b) && is_layer(other) && other % 2 == b % 2) is_gathered[other] = false;
      is_gathered[b] = true;
    }
  }
  void gather_if_away(std::size_t b) {
    if (stage == 3 && !is_gathered[b]) gather(b);
  }
  void need(std::size_t b) {
    gather_if_away(b);
    stream.wait(gathers[b]);
  }
  void forget_gathered() { is_gathered.assign(own_buckets(), false); }
  void before_layer(index_t i, bool backward, bool writes_gradients) {
    std::size_t const b = layer_bucket(i);
    need(b);
    if (std::size_t const next = backward ? b - 1 : b + 1; is_layer(next)) gather_if_away(next);
    if (rotates && backward && writes_gradients && b + 2 < tail_bucket()) stream.wait(reductions[b + 2]);
  }

  // ---- gradients

  struct written_buffers {
    std::vector<flat_buffer<float>> memory;
    std::vector<float*> bases;
    gradients_type bound;
  };
  void allocate_gradients(Network const& net) {
    if (!plan.eager) {
      whole.emplace(flat_gradients(),
                    micro_batch_range{plan.group * plan.accumulate, plan.accumulate, plan.groups * plan.accumulate},
                    [&](float* p) {
                      nn::binder<float> b(p);
                      return net.bind(b);
                    });
      std::vector<comm::tree_node> nodes;
      for (int g = 0; g < plan.groups; ++g) {
        auto const theirs =
            comm::canonical_nodes(g * plan.accumulate, (g + 1) * plan.accumulate, plan.groups * plan.accumulate);
        node_counts.push_back(int(theirs.size()));
        nodes.insert(nodes.end(), theirs.begin(), theirs.end());
      }
      total.emplace(std::move(nodes));
      return;
    }
    written.emplace();
    written->bases = place(written->memory, std::span<bucket const>(buckets), 2, tail_bucket(), rotates);
    nn::binder<float> b(std::span<float* const>(written->bases));
    written->bound = net.bind(b);
    shards.emplace(compact_gradients(), micro_batch_range{0, plan.accumulate, plan.accumulate},
                   [](float*) { return 0; });
    node_counts.assign(std::size_t(replicas), 1);
    total.emplace(replicas);
  }
  /// The gradients of bucket b are written.
  void finish(std::size_t b) {
    auto const range = buckets[b].range;
    if (plan.eager) {
      float* const to = shards->next().values.data() + buckets[b].compact;
      reductions[b] = stream.enqueue([this, b, to](C& group) {
        float const* const mine = written->bases[b];
        reduce(group, b, std::span(&mine, 1), to);
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
    result = whole->nodes()[0]->values.data();
    if (replicas == 1) return;
    reductions[b] = stream.enqueue([this, b, nodes = whole->nodes(), to = result + buckets[b].own.begin](C& group) {
      std::array<float const*, 32> mine;
      for (std::size_t i = 0; i < nodes.size(); ++i) mine[i] = nodes[i]->values.data() + buckets[b].range.begin;
      reduce(group, b, std::span(mine).first(nodes.size()), to);
    });
  }
  void reduce(C& group, std::size_t b, std::span<float const* const> mine, float* to) {
    auto const& cuts = buckets[b].cuts;
    std::size_t const own = cuts[std::size_t(group.rank())];
    group.visit_shards(mine, node_counts, cuts,
                       [&](std::size_t begin, std::size_t end, std::span<float const* const> all) {
                         (*total)(to + (begin - own), all, end - begin);
                       });
  }
  /// The reduced gradient of what this replica owns of bucket b.
  float* gradient(std::size_t b) {
    if (plan.eager) return shards->nodes()[0]->values.data() + buckets[b].compact;
    return result + buckets[b].own.begin;
  }
  /// Stage 0: every replica updates everything, so it needs all gradients.
  void spread_gradients() {
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      float* const to = full_gradient(b);
      if (plan.eager)
        std::copy_n(gradient(b), buckets[b].own.size(), to + (buckets[b].own.begin - buckets[b].range.begin));
      reductions[b] = stream.enqueue([this, b, to](C& group) {
        group.all_gather(std::as_writable_bytes(std::span(to, std::size_t(buckets[b].range.size()))),
                         buckets[b].byte_cuts(sizeof(float)));
      });
    }
  }
  float* full_gradient(std::size_t b) { return plan.eager ? written->bases[b] : result + buckets[b].range.begin; }
  float const* updated_gradient(std::size_t b) { return stage == 0 && replicas > 1 ? full_gradient(b) : gradient(b); }

  // ---- whole parameters

  /// Of the tensor ranks that hold the same, one stands for all.
  bool counts(parameter_spec const& s) const { return s.is_sharded() || mesh.tensor.rank() == 0; }
  /// f(own spec, elements here, element of the whole where they begin) for what this rank has of `part` of a parameter.
  template <class F>
  void for_each_run(parameter_spec const& whole, stretch part, F&& f) {
    for (auto const& s : spec_list) {
      if (s.name != whole.name) continue;
      s.for_each_run([&](index_t here, index_t there, index_t n) {
        auto const common = intersection(part, {there, there + n});
        if (common.size() <= 0) return;
        index_t const begin = s.offset + here + (common.begin - there);
        f(s, stretch{begin, begin + common.size()}, common.begin);
      });
    }
  }
  float* buffer_of(state_kind kind, std::size_t b, stretch part) {
    if (kind == state_kind::parameters) return master_of(b) + (part.begin - held(b).begin);
    return at(kind == state_kind::first ? first : second, b) + (part.begin - held(b).begin);
  }
  template <class F>
  void for_each_owned(state_kind kind, stretch part, F&& f) {
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      auto const there = intersection(part, buckets[b].own);
      if (there.size() > 0) f(there, buffer_of(kind, b, there));
    }
  }
  template <class F>
  void for_each_held(state_kind kind, stretch part, F&& f) {
    for (std::size_t b = 0; b < own_buckets(); ++b) {
      bool const all = kind == state_kind::parameters && !compact_master;
      auto const there = intersection(part, all ? buckets[b].range : held(b));
      if (there.size() > 0) f(there, buffer_of(kind, b, there));
    }
  }

  Context& exec;
  comm::mesh<C>& mesh;
  sample_plan plan;
  int replicas;
  std::vector<parameter_spec> spec_list;
  std::vector<parameter_spec> counted_specs;  ///< in the gradient norm
  std::vector<index_t> begins;
  index_t flat_size = 0, compact = 0;
  std::vector<bucket> buckets;
  std::size_t table_bucket = 0;  ///< of the embedding's own gradient; 0: there is none
  std::vector<std::vector<parameter_spec>> clipped;

  flat_buffer<float> master, first, second;
  flat_buffer<value_type> copy;
  std::vector<flat_buffer<value_type>> gathered;
  std::vector<value_type*> gathered_bases;
  parameters_type bound;
  std::vector<char> is_gathered;

  std::optional<gradient_tree<gradients_type>> whole;  ///< lazy
  std::optional<written_buffers> written;              ///< eager
  std::optional<gradient_tree<int>> shards;            ///< eager
  std::optional<comm::node_sum> total;
  std::vector<int> node_counts;
  float* result = nullptr;
  std::vector<ops::norm_part> norm_parts;

  std::vector<typename comm::stream<C>::request> gathers, reductions;
  comm::stream<C> stream;  // last: its work is done before what it works on goes away
};

}  // namespace tenon::parallel
