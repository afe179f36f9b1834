// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <tenon/comm/mesh.hpp>
#include <tenon/comm/self.hpp>
#include <tenon/comm/stream.hpp>
#include <tenon/core/arena.hpp>
#include <tenon/core/parameter.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/exec/host/context.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/policy/arithmetic.hpp>
#include <tenon/policy/memory.hpp>

namespace tenon::nn {

/// What a model tells those who hold its parameters while it goes through its layers: gathering, reducing. Nothing here.
struct no_hooks {
  /// Layer i is about to be run, in this direction: its parameters must be there.
  void before_layer(index_t, bool /*backward*/) {}
  /// The gradients of layer i are written; `layers` stands for what comes behind the last layer.
  void after_backward(index_t) {}
  /// What layer i of the whole model gave in this direction, on its way to the next; -1 stands for the embedding, the
  /// number of layers for the head.
  template <class T>
  void result(index_t, bool /*backward*/, matrix_view<T> const&) {}
};

/// A matrix of gradients `by` elements further on: the same parameter in another buffer.
template <class T>
matrix_view<T> moved_by(matrix_view<T> m, index_t by) {
  return m.data() ? matrix_view<T>{m.data() + by, m.mapping()} : m;
}

/// Weight gradients that a schedule puts off until nothing else is left to do (zero-bubble pipelines).
template <class Context>
struct deferred_gradients {
  /// work(context, moved): makes them, `moved` elements behind where backward was told to put them.
  std::vector<std::function<void(Context&, index_t)>> work;
  arena memory;  ///< what the work reads
};

/// How ranks that hold parts of the same sequences bring attention together; see nn/context_attention.hpp.
enum class context_exchange { ring, all_to_all, all_gather };

/// What blocks know about one pass over a micro-batch: where to run, where to keep what backward needs, which samples
/// these are. Activations are [tokens, features] with tokens = samples x sequence_length, sample after sample. Where
/// sequences are cut over N context ranks, rank r has tokens [r, r + 1) x sequence_length / N of each sample.
/// With `CutsTokens` (sequence_parallel) a tensor rank has some tokens only of what lies between blocks.
template <class Context, Arithmetic Order, MemoryPolicy Memory, class Hooks = no_hooks,
          comm::Communicator Ranks = comm::self, bool CutsTokens = false>
struct pass {
  using arithmetic = Order;
  using memory = Memory;
  static constexpr bool keeps_everything = Memory::policy != tenon::memory::recompute::cheap_parts;
  static constexpr bool alone = std::same_as<Ranks, comm::self>;
  static constexpr bool forward_only = false;  ///< no backward will follow: nothing is kept for it
  static constexpr bool recomputes_layers = Memory::policy == tenon::memory::recompute::whole_layers;

  Context& exec;
  arena& saved;                              ///< a stack: forward pushes, the end of the step releases
  std::span<index_t const> positions;        ///< [tokens] position of each token in its sequence
  std::span<index_t const> sequence_begins;  ///< [samples + 1]
  index_t sequence_length = 0;               ///< of whole sequences, however many ranks hold them
  std::uint64_t first_sample = 0;            ///< number of the first sample in the whole run: the counter of dropout
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  bool training = false;
  [[no_unique_address]] Hooks hooks{};
  comm::mesh<Ranks>* mesh = nullptr;    ///< the groups of ranks that blocks talk in; null: this one is alone
  float auxiliary_scale = 0;            ///< gradient of the auxiliary loss of each sequence (see nn::moe)
  exact_sum* auxiliary_loss = nullptr;  ///< receives each sequence's in backward; null: not wanted
  context_exchange exchange = context_exchange::ring;
  comm::stream<Ranks>* context_stream = nullptr;  ///< of mesh->context: a ring moves on it beside the work; may be null
  bool cuts_sequences = true;                     ///< over the context ranks of the mesh
  deferred_gradients<Context>* deferred = nullptr;  ///< where weight gradients are put off to; null: they are made

  /// make(context, moved) writes parameter gradients, each `moved` elements behind its place: now, or later.
  template <class Make>
  void weight_gradients(Make&& make) {
    if (deferred) deferred->work.emplace_back(std::forward<Make>(make));
    else make(exec, 0);
  }
  /// `m` as it is now, for work that may come later. @param kept it is what forward keeps when the memory policy keeps all
  template <class T>
  matrix_view<T const> for_later(matrix_view<T const> m, bool kept) {
    if (!deferred || (kept && Memory::policy == tenon::memory::recompute::nothing)) return m;
    auto const copy = deferred->memory.template allocate_matrix<T>(m.extent(0), m.extent(1));
    for (index_t r = 0; r < m.extent(0); ++r) std::copy_n(&m(r, 0), m.extent(1), &copy(r, 0));
    return copy;
  }
  /// All parameter gradients of layer i are made, or put off.
  void after_backward(index_t i) {
    weight_gradients([to = hooks, i](Context&, index_t) mutable { to.after_backward(i); });
  }
  /// Ranks that hold parts of a layer's matrices. One, known to the compiler, where there is only one rank.
  int tensor_ranks() const {
    if constexpr (alone) return 1;
    else return mesh ? mesh->tensor.size() : 1;
  }
  /// Ranks that hold different experts, and different samples.
  int expert_ranks() const {
    if constexpr (alone) return 1;
    else return mesh ? mesh->expert.size() : 1;
  }
  /// Ranks that hold parts of the same sequences.
  int context_ranks() const {
    if constexpr (alone) return 1;
    else return mesh && cuts_sequences ? mesh->context.size() : 1;
  }
  /// Tokens of each sequence that this rank holds, and the position of the first.
  index_t local_length() const { return sequence_length / context_ranks(); }
  index_t first_position() const { return context_ranks() == 1 ? 0 : mesh->context.rank() * local_length(); }
  static constexpr bool cuts_tokens = CutsTokens && !alone;
  index_t tokens() const { return index_t(positions.size()); }
  /// Tokens of the residual stream that tensor rank `rank` has; all of them where they are not cut.
  row_range tokens_of(int rank) const {
    if constexpr (!cuts_tokens) return {0, tokens()};
    int const ranks = tensor_ranks();
    index_t const first = tokens() * rank / ranks;
    return {first, tokens() * (rank + 1) / ranks - first};
  }
  row_range own_tokens() const {
    if constexpr (!cuts_tokens) return tokens_of(0);
    else return tokens_of(mesh ? mesh->tensor.rank() : 0);
  }
  index_t token_leaf() const { return Order::token_leaf(sequence_length); }

  /// Memory for what backward reads: kept, or scratch of the caller's `arena_scope` when the policy recomputes it.
  template <class T>
  matrix_view<T> allocate(index_t cols, bool kept) {
    return (kept ? saved : exec.scratch()).template allocate_matrix<T>(tokens(), cols);
  }
  /// The same for this rank's tokens of the residual stream.
  template <class T>
  matrix_view<T> allocate_own(index_t cols, bool kept) {
    return (kept ? saved : exec.scratch()).template allocate_matrix<T>(own_tokens().count, cols);
  }
  /// `values` as fp32: themselves, or a converted copy in scratch.
  template <class T>
  float const* as_float(T const* values, index_t count) {
    if constexpr (std::is_same_v<T, float>) return values;
    else {
      if (!values) return nullptr;
      float* const copy = exec.scratch().template allocate<float>(count);
      ops::convert(exec, ops::convert_args<float, T>{copy, values, count});
      return copy;
    }
  }
};

}  // namespace tenon::nn
