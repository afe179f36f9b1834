// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A model that reads tokens and gives logits, over a cache.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <tenon/exec/host/context.hpp>
#include <tenon/infer/pass.hpp>
#include <tenon/nn/stored.hpp>
#include <tenon/policy/arithmetic.hpp>

namespace tenon::infer {

/// New tokens of some sequences, one sequence after the other, and the rows whose logits are wanted.
struct step_batch {
  std::vector<std::int32_t> tokens;
  std::vector<index_t> positions;                           ///< of each token in its sequence
  std::vector<index_t> begins;                              ///< first row of each sequence, and the end
  std::vector<std::vector<ops::paged_sequence>> sequences;  ///< per group of layers
  std::vector<std::int32_t> wanted;                         ///< rows
};

/// A network bound to stored weights, with the memory of its cache.
/// @tparam Network nn::transformer of any kind
template <class Network, Arithmetic Order, kv::CacheElement Element>
class runner {
 public:
  using storage = kv_storage<Element>;
  runner(exec::host_context& context, Network network, nn::weight_source& weights, storage cache)
      : exec(context), net(std::move(network)), kv(std::move(cache)) {
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
  storage& cache() { return kv; }
  index_t vocabulary() const { return net.vocabulary(); }

  /// @shape logits [wanted rows, vocabulary]
  void run(step_batch const& batch, matrix_view<float> logits) {
    index_t layer = 0;
    std::vector<std::span<ops::paged_sequence const>> const sequences(batch.sequences.begin(), batch.sequences.end());
    auto const mark = memory.mark();
    using pass_type = pass<Order, Element>;
    pass_type p{{.exec = exec,
                 .saved = memory,
                 .positions = batch.positions,
                 .sequence_begins = batch.begins,
                 .sequence_length = 1,
                 .hooks = {&layer}},
                &kv,
                sequences};
    typename Network::template saved<float> saved;
    auto const hidden =
        net.forward(p, parameters, std::span<std::int32_t const>(batch.tokens), matrix_view<float const>{}, saved);
    arena_scope scope(exec.scratch());
    auto const rows = exec.scratch().template allocate_matrix<float>(index_t(batch.wanted.size()), hidden.extent(1));
    for (std::size_t i = 0; i < batch.wanted.size(); ++i)
      std::copy_n(&hidden(batch.wanted[i], 0), hidden.extent(1), &rows(index_t(i), 0));
    net.logits(p, parameters, as_const(rows), logits);
    memory.release(mark);
  }

 private:
  exec::host_context& exec;
  Network net;
  storage kv;
  typename Network::template parameters<nn::stored const> parameters;
  arena memory;
};

}  // namespace tenon::infer
