// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <span>

#include <tenon/infer/kv_storage.hpp>
#include <tenon/nn/context_attention.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/ops/paged_attention.hpp>
#include <tenon/policy/memory.hpp>

namespace tenon::infer {

/// Which layer a pass is in.
struct layer_number {
  index_t* layer = nullptr;
  void before_layer(index_t i, bool) const { *layer = i; }
  void after_backward(index_t) const {}
};

/// A pass over the new tokens of some sequences, one sequence after the other, whose earlier ones are in a cache.
template <Arithmetic Order, kv::CacheElement Element, comm::Communicator Ranks = comm::self>
struct pass : nn::pass<exec::host_context, Order, memory::recompute_full, layer_number, Ranks> {
  static constexpr bool forward_only = true;
  kv_storage<Element>* cache = nullptr;
  std::span<std::span<ops::paged_sequence const> const> sequences;  ///< of each group of layers

  /// heads = attention of the new tokens to all of their sequences up to them. @shape as nn::context_attention_forward
  void attend(ops::attention_options const& o, matrix_view<float const> qkv, matrix_view<float> heads) {
    nn::detail::attention_columns const columns(o);
    int const layer = int(*this->hooks.layer);
    auto const here = sequences[std::size_t(cache->group(layer))];
    auto const& pages = cache->layer(layer);
    ops::kv_write(this->exec, ops::kv_write_args<float, Element>{columns.k(qkv), columns.v(qkv), pages, here});
    ops::paged_attention(this->exec, ops::paged_attention_args<float, Element>{columns.q(qkv), heads, pages, here, o});
  }
};

}  // namespace tenon::infer
