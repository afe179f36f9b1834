// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Mixture of experts: which experts a token goes to, rows sorted by expert, and their sums back at the token.
///
/// A token takes `k` slots, one per chosen expert. Rows are slots in the order of experts, within an expert in the order
/// of tokens: what an expert reads is contiguous, and so is what ranks of expert parallelism exchange.
#include <span>

#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// What `route` writes and everything behind it reads.
struct routing {
  matrix_view<float> probabilities;  ///< [t, experts] softmax of the logits
  matrix_view<index_t> chosen;       ///< [t, k] experts of a token, the most probable first
  matrix_view<float> weights;        ///< [t, k] probabilities over their sum; 0 where dropped
  matrix_view<index_t> places;       ///< [t, k] the row of a slot; -1 where dropped
  std::span<index_t> tokens;         ///< [t k] the token of a row
  std::span<index_t> begins;         ///< [experts + 1] rows [begins[e], begins[e + 1]) are expert e's
  matrix_view<index_t> counts;       ///< [sequences, experts] slots that chose an expert, dropped ones included

  index_t slots() const { return chosen.extent(1); }
  index_t experts() const { return probabilities.extent(1); }
  index_t rows() const { return begins.back(); }
  std::span<index_t const> row_tokens() const { return tokens.first(std::size_t(rows())); }
};

/// Softmax over experts (16 lanes), the k most probable (of equal ones the lower number), their weights over the sum in
/// slot order. With a capacity, the tokens of a sequence beyond `ceil(capacity_factor length k / experts)` for an expert
/// are dropped, in token order; the other weights stay. All of it is a function of the token's own sequence.
/// @shape logits [t, experts]  sequence_begins [sequences + 1]
struct route_args {
  matrix_view<float const> logits;
  std::span<index_t const> sequence_begins;
  float capacity_factor = 0;  ///< 0: nothing is dropped
  routing out;
};
/// The gradient of the logits through weights and softmax, and that of the balance of each sequence:
/// `experts x the sum over experts of (share of the slots that chose it) x (mean probability)`, 1 when all are equal;
/// the share has no gradient.
/// @shape d_weights [t, k] (what dropped slots hold counts: 0)  d_logits [t, experts]  balance [sequences] or null
struct route_backward_args {
  routing from;
  std::span<index_t const> sequence_begins;
  matrix_view<float const> d_weights;
  float balance_scale = 0;  ///< gradient of each sequence's balance
  matrix_view<float> d_logits;
  double* balance = nullptr;
};
/// out[i] = x[rows[i]], or zeros where rows[i] is -1. @shape x [n, c]  rows [m]  out [m, c]
template <class T>
struct dispatch_args {
  matrix_view<T const> x;
  std::span<index_t const> rows;
  matrix_view<T> out;
};
/// out[t] = residual[t] + the sum over slots of weights[t, slot] y[places[t, slot]]: one chain of fused multiply-adds
/// in slot order that begins at the residual (or +0) and is rounded to T once. Dropped slots take no part.
/// With no weights (all 1) it is the gradient of `dispatch`.
/// @shape y [rows, c]  places [t, k]  weights [t, k] or empty  residual [t, c] or empty  out [t, c], may alias residual
template <class T, class Residual = T>
struct combine_args {
  matrix_view<T const> y;
  matrix_view<index_t const> places;
  matrix_view<float const> weights{};
  matrix_view<Residual const> residual{};
  matrix_view<T> out;
};
/// d_y[places[t, slot]] = weights[t, slot] d_out[t], and d_weights[t, slot] = d_out[t] . y[places[t, slot]] over 16
/// lanes; 0 where dropped. @shape as combine_args; d_y [rows, c], may alias y
template <class T>
struct combine_backward_args {
  matrix_view<T const> d_out;
  matrix_view<T const> y;
  matrix_view<index_t const> places;
  matrix_view<float const> weights;
  matrix_view<T> d_y;
  matrix_view<float> d_weights;
};

/// @error argument_error when shapes differ
/// @source Jiang et al. 2024, "Mixtral of experts", arXiv:2401.04088; capacity: Lepikhin et al. 2020, arXiv:2006.16668
/// @test tests/ops/moe_test.cpp
inline constexpr struct route_t : operation<route_t> {
  static constexpr char const* name = "route";
  static profile::work work(route_args const& a) {
    double const n = double(a.logits.size());
    return {double(10 + a.out.slots()) * n, 2 * n * sizeof(float)};
  }
} route{};

/// @source balance: Fedus et al. 2021, "Switch transformers", arXiv:2101.03961; per sequence: DeepSeek-AI 2024,
/// arXiv:2412.19437
inline constexpr struct route_backward_t : operation<route_backward_t> {
  static constexpr char const* name = "route_backward";
  static profile::work work(route_backward_args const& a) {
    double const n = double(a.d_logits.size());
    return {8 * n, 2 * n * sizeof(float)};
  }
} route_backward{};

inline constexpr struct dispatch_t : operation<dispatch_t> {
  static constexpr char const* name = "dispatch";
  template <class T>
  static profile::work work(dispatch_args<T> const& a) {
    return {0, double(a.out.size()) * 2 * sizeof(T)};
  }
} dispatch{};

inline constexpr struct combine_t : operation<combine_t> {
  static constexpr char const* name = "combine";
  template <class T, class Residual>
  static profile::work work(combine_args<T, Residual> const& a) {
    double const read = double(a.out.size()) * double(a.places.extent(1));
    return {2 * read, (read + double(a.out.size())) * sizeof(T) + double(a.residual.size()) * sizeof(Residual)};
  }
} combine{};

inline constexpr struct combine_backward_t : operation<combine_backward_t> {
  static constexpr char const* name = "combine_backward";
  template <class T>
  static profile::work work(combine_backward_args<T> const& a) {
    double const n = double(a.d_out.size()) * double(a.places.extent(1));
    return {3 * n, (2 * n + double(a.d_out.size())) * sizeof(T)};
  }
} combine_backward{};

}  // namespace tenon::ops
