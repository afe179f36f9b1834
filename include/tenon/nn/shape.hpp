// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A decoder in numbers: what memory, traffic and time depend on, in constant evaluation as well as at run time.
#include <algorithm>
#include <initializer_list>
#include <span>
#include <vector>

#include <tenon/core/parameter.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/nn/tensor_parallel.hpp>

namespace tenon::nn {

/// A parameter_spec without its name.
struct flat_part {
  index_t rows = 1, cols = 0, offset = 0;
  parameter_kind kind = parameter_kind::vector;
  constexpr index_t size() const { return rows * cols; }
};

/// What a binder puts into one bucket.
class flat_bucket {
 public:
  /// A matrix of pieces that lie one after the other.
  constexpr flat_bucket& matrix(std::initializer_list<index_t> pieces, index_t cols,
                                parameter_kind kind = parameter_kind::matrix) {
    end = round_up(end, lanes);
    for (index_t const rows : pieces) add({rows, cols, end, kind});
    return *this;
  }
  constexpr flat_bucket& vector(std::initializer_list<index_t> pieces) {
    end = round_up(end, lanes);
    for (index_t const size : pieces) add({1, size, end});
    return *this;
  }
  constexpr std::span<flat_part const> parts() const { return list; }
  /// Elements that it takes.
  constexpr index_t size() const { return round_up(end, lanes); }
  /// Elements that are parameters.
  constexpr index_t values() const {
    index_t n = 0;
    for (auto const& p : list) n += p.size();
    return n;
  }

 private:
  constexpr void add(flat_part const& p) { list.push_back(p), end += p.size(); }
  std::vector<flat_part> list;
  index_t end = 0;
};

/// The numbers of an nn::transformer, or of what one rank holds of it. A model gives its own as `Model::shape(config)`.
/// @test tests/parallel/footprint_test.cpp, which compares it with what trainers have
struct model_shape {
  index_t layers = 0, width = 0, query_heads = 0, kv_heads = 0, head_width = 0;
  index_t hidden = 0;  ///< of an mlp or an expert
  index_t context = 0, vocabulary = 0;
  index_t positions = 0;                       ///< that are learned
  index_t experts = 0, experts_per_token = 0;  ///< of a mixture; 0: there is none
  index_t window = 0;                          ///< of attention; 0: none
  bool gated = false;                          ///< the mlp has a gate
  bool one_qkv_piece = false, qkv_bias = false, bias = false;
  int norm_vectors = 1;     ///< parameters of a norm, in vectors
  int norm_statistics = 1;  ///< numbers that a norm saves for a token
  bool head_norm = false, tied = false;
  index_t held_experts = experts;  ///< that this rank holds

  constexpr index_t query_width() const { return query_heads * head_width; }
  constexpr index_t qkv_width() const { return (query_heads + 2 * kv_heads) * head_width; }
  constexpr index_t up_width() const { return gated ? 2 * hidden : hidden; }

  /// What one rank of a mesh holds of each layer and table.
  constexpr model_shape part(int tensor_rank, int tensor_ranks, int expert_ranks) const {
    auto const share = [&](index_t extent) {
      index_t const most = share_of_ranks(extent, reduction_order::feature_leaf(extent), tensor_ranks);
      return std::clamp<index_t>(extent - tensor_rank * most, 0, most);
    };
    model_shape s = *this;
    s.held_experts = experts / expert_ranks;
    if (tensor_ranks == 1) return s;
    s.query_heads /= tensor_ranks, s.kv_heads /= tensor_ranks;
    s.hidden = share(hidden), s.vocabulary = share(vocabulary);
    return s;
  }

  // ---- buckets, in the order of transformer::bind

  constexpr flat_bucket token_table() const {
    return flat_bucket().matrix({vocabulary}, width, parameter_kind::embedding);
  }
  constexpr flat_bucket position_table() const {
    flat_bucket b;
    if (positions) b.matrix({positions}, width, parameter_kind::embedding);
    return b;
  }
  /// A layer, without experts that are a bucket of their own.
  constexpr flat_bucket layer() const {
    flat_bucket b;
    add_norm(b, width);
    index_t const q = query_width(), kv = kv_heads * head_width;
    if (one_qkv_piece) b.matrix({q + 2 * kv}, width);
    else b.matrix({q, kv, kv}, width);
    if (qkv_bias && one_qkv_piece) b.vector({q + 2 * kv});
    else if (qkv_bias) b.vector({q, kv, kv});
    b.matrix({width}, q);
    if (bias) b.vector({width});
    if (head_norm) b.vector({head_width}).vector({head_width});
    add_norm(b, width);
    if (!experts) {
      add_mlp(b);
    } else {
      b.matrix({experts}, width);
      if (held_experts == experts) add_experts(b);
    }
    return b;
  }
  /// What ranks of expert parallelism hold different ones of.
  constexpr flat_bucket own_experts() const {
    flat_bucket b;
    if (held_experts != experts) add_experts(b);
    return b;
  }
  constexpr flat_bucket final_norm() const {
    flat_bucket b;
    add_norm(b, width);
    return b;
  }

  /// Parameters of the whole model.
  constexpr index_t parameters() const {
    return (tied ? 1 : 2) * token_table().values() + position_table().values() + layers * layer().values() +
           final_norm().values();
  }
  /// Weights of a layer that one token meets in matrix products.
  constexpr double layer_weights() const {
    double const mlp = double(width) * double(up_width() + hidden);
    return double(width) * double(qkv_width() + query_width()) +
           (experts ? double(experts * width) + double(experts_per_token) * mlp : mlp);
  }
  /// Keys that a query sees in the mean.
  constexpr double keys_seen(double sequence_length) const {
    return window && double(window) < sequence_length ? double(window) : (sequence_length + 1) / 2;
  }
  /// Forward operations of a layer, and of the head, on one token.
  constexpr double layer_flops(double sequence_length) const {
    return 2 * layer_weights() + 4 * keys_seen(sequence_length) * double(query_width());
  }
  constexpr double head_flops() const { return 2 * double(vocabulary) * double(width); }
  /// As transformer::step_flops.
  constexpr double step_flops(double samples, double sequence_length) const {
    return 3 * samples * sequence_length * (double(layers) * layer_flops(sequence_length) + head_flops());
  }

 private:
  constexpr void add_norm(flat_bucket& b, index_t size) const {
    for (int i = 0; i < norm_vectors; ++i) b.vector({size});
  }
  constexpr void add_mlp(flat_bucket& b) const {
    if (gated) b.matrix({hidden, hidden}, width);
    else b.matrix({hidden}, width);
    if (bias) b.vector({hidden});
    b.matrix({width}, hidden);
    if (bias) b.vector({width});
  }
  constexpr void add_experts(flat_bucket& b) const {
    for (index_t e = 0; e < held_experts; ++e) add_mlp(b);
  }
};

}  // namespace tenon::nn
