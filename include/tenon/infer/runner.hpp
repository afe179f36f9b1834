// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A model that reads tokens and gives logits, over a cache.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <tenon/exec/host/context.hpp>
#include <tenon/infer/kv_storage.hpp>
#include <tenon/infer/page_tables.hpp>
#include <tenon/infer/pass.hpp>
#include <tenon/nn/stored.hpp>

namespace tenon::infer {

/// New tokens of some sequences, one sequence after the other, and the rows whose logits are wanted. Takes no memory
/// beyond what is reserved.
struct step_batch {
  std::vector<std::int32_t> tokens;
  std::vector<index_t> positions;                           ///< of each token in its sequence
  std::vector<index_t> begins;                              ///< first row of each sequence, and the end
  std::vector<std::vector<ops::paged_sequence>> sequences;  ///< per group of layers
  std::vector<std::int32_t> wanted;                         ///< rows
  void reserve(std::size_t groups, index_t most_tokens, index_t most_sequences) {
    tokens.reserve(std::size_t(most_tokens)), positions.reserve(std::size_t(most_tokens));
    wanted.reserve(std::size_t(most_tokens)), begins.reserve(std::size_t(most_sequences) + 1);
    sequences.resize(groups);
    for (auto& s : sequences) s.reserve(std::size_t(most_sequences));
  }
  void clear() {
    tokens.clear(), positions.clear(), wanted.clear();
    begins.assign(1, 0);
    for (auto& s : sequences) s.clear();
  }
  /// Tokens of a sequence from position `first` on; the logits of the last `logits` of them are wanted.
  void add(std::span<std::int32_t const> added, index_t first, index_t logits, sequence_pages const& pages) {
    index_t const row = index_t(tokens.size()), count = index_t(added.size());
    tokens.insert(tokens.end(), added.begin(), added.end());
    for (index_t i = 0; i < count; ++i) positions.push_back(first + i);
    begins.push_back(row + count);
    for (std::size_t g = 0; g < sequences.size(); ++g) sequences[g].push_back({row, count, first, pages.groups[g]});
    for (index_t i = count - logits; i < count; ++i) wanted.push_back(std::int32_t(row + i));
  }
};

/// What an engine asks of a model: the kind is known to its implementation only.
class runner {
 public:
  virtual ~runner() = default;
  virtual index_t vocabulary() const = 0;
  /// @shape logits [wanted rows, vocabulary]
  virtual void run(step_batch const& batch, matrix_view<float> logits) = 0;
  /// Moves what pages hold; places are those of a swap space of the runner's own.
  virtual void move(page_move const& m) = 0;
};

/// A network bound to stored weights, with the memory of its cache.
/// @tparam Network nn::transformer of any kind   @test tests/infer/engine_test.cpp
template <class Network, Arithmetic Order, kv::CacheElement Element, comm::Communicator Ranks = comm::self>
class network_runner final : public runner {
 public:
  using storage = kv_storage<Element>;
  /// @param ranks whose tensor ranks share the matrices; the network is the part of this one   null: it is whole
  network_runner(exec::host_context& context, Network network, nn::weight_source& weights, storage cache,
                 comm::mesh<Ranks>* ranks = nullptr)
      : exec(context), mesh(ranks), net(std::move(network)), kv(std::move(cache)), swapped(std::size_t(kv.groups())) {
    nn::binder<nn::stored const> read(weights);
    parameters = net.bind(read);
  }
  static std::vector<kv_layer> layers_of(Network const& net) {
    std::vector<kv_layer> all;
    for (auto const& l : net.layers.layers) {
      auto const& a = l.first.inner;
      all.push_back({a.kv_heads, a.head_width, a.window});
    }
    return all;
  }
  index_t vocabulary() const override { return net.vocabulary(); }

  void run(step_batch const& batch, matrix_view<float> logits) override {
    index_t layer = 0;
    groups.assign(batch.sequences.begin(), batch.sequences.end());
    auto const mark = memory.mark();
    pass<Order, Element, Ranks> p{{.exec = exec,
                                   .saved = memory,
                                   .positions = batch.positions,
                                   .sequence_begins = batch.begins,
                                   .sequence_length = 1,
                                   .hooks = {&layer},
                                   .mesh = mesh},
                                  &kv,
                                  groups};
    auto const hidden =
        net.forward(p, parameters, std::span<std::int32_t const>(batch.tokens), matrix_view<float const>{}, saved);
    arena_scope scope(exec.scratch());
    auto const rows = exec.scratch().template allocate_matrix<float>(index_t(batch.wanted.size()), hidden.extent(1));
    for (std::size_t i = 0; i < batch.wanted.size(); ++i)
      std::copy_n(&hidden(batch.wanted[i], 0), hidden.extent(1), &rows(index_t(i), 0));
    if (!rows.empty()) net.logits(p, parameters, as_const(rows), logits);
    memory.release(mark);
  }
  void move(page_move const& m) override {
    auto& places = swapped[std::size_t(m.group)];
    switch (m.what) {
      case page_move::kind::copy: return kv.copy_page(m.group, m.from, m.to);
      case page_move::kind::swap_out:
        if (places.size() <= std::size_t(m.to)) places.resize(std::size_t(m.to) + 1);
        places[std::size_t(m.to)] = kv.swap_out(m.group, {&m.from, 1});
        return;
      case page_move::kind::swap_in:
        kv.swap_in(m.group, {&m.to, 1}, places[std::size_t(m.from)]);
        places[std::size_t(m.from)] = {};
    }
  }

 private:
  exec::host_context& exec;
  comm::mesh<Ranks>* mesh;
  Network net;
  storage kv;
  typename Network::template parameters<nn::stored const> parameters;
  typename Network::template saved<float> saved;
  arena memory;
  std::vector<std::span<ops::paged_sequence const>> groups;
  std::vector<std::vector<std::vector<std::byte>>> swapped;  ///< [group][place]
};

}  // namespace tenon::infer
