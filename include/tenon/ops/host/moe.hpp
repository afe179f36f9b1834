// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cmath>
#include <limits>

#include <tenon/core/reduction_order.hpp>
#include <tenon/exec/host/math.hpp>
#include <tenon/ops/host/rows.hpp>
#include <tenon/ops/moe.hpp>

namespace tenon::ops {
namespace detail {

inline void softmax_row(float const* logits, index_t n, float* out) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  auto largest = simd::broadcast(lowest), total = simd::zeros();
  for_lanes(0, n, [&](index_t j, int k) TENON_INLINE_LAMBDA {
    largest = simd::max(largest, simd::load(logits + j, k, lowest));
  });
  auto const maximum = simd::broadcast(simd::reduce_max(largest));
  // exp(-inf) = +0: lanes past the end add nothing.
  for_lanes(0, n, [&](index_t j, int k) TENON_INLINE_LAMBDA {
    auto const e = simd::exp(simd::load(logits + j, k, lowest) - maximum);
    total = total + e;
    simd::store(out + j, e, k);
  });
  auto const sum = simd::broadcast(simd::reduce_add(total));
  for_lanes(0, n, [&](index_t j, int k) TENON_INLINE_LAMBDA { simd::store(out + j, simd::load(out + j, k) / sum, k); });
}

/// The chosen experts' probabilities, added in slot order.
inline float chosen_sum(routing const& r, index_t t) {
  float sum = 0;
  for (index_t j = 0; j < r.slots(); ++j) sum += r.probabilities(t, r.chosen(t, j));
  return sum;
}

/// The experts and weights of one token. NaN is less than everything: k different experts are always chosen.
inline void choose(routing const& r, index_t t) {
  index_t* const chosen = row(r.chosen, t);
  float const* const p = row(r.probabilities, t);
  for (index_t j = 0; j < r.slots(); ++j) {
    index_t best = -1;
    for (index_t e = 0; e < r.experts(); ++e)
      if ((best < 0 || p[e] > p[best]) && std::find(chosen, chosen + j, e) == chosen + j) best = e;
    chosen[j] = best;
  }
  float const sum = chosen_sum(r, t);
  for (index_t j = 0; j < r.slots(); ++j) r.weights(t, j) = p[chosen[j]] / sum;
}

/// Slots of each expert that one sequence may fill.
inline index_t expert_capacity(float factor, index_t length, index_t slots, index_t experts) {
  if (factor == 0) return length;
  return std::min(length, index_t(std::ceil(double(factor) * double(length) * double(slots) / double(experts))));
}

inline bool same_shape(routing const& r, index_t tokens, index_t sequences) {
  index_t const k = r.slots(), e = r.experts();
  return k >= 1 && k <= e && same_shape(r.probabilities, tokens, e) && same_shape(r.chosen, tokens, k) &&
         same_shape(r.weights, tokens, k) && same_shape(r.places, tokens, k) &&
         index_t(r.tokens.size()) == tokens * k && index_t(r.begins.size()) == e + 1 &&
         same_shape(r.counts, sequences, e);
}

}  // namespace detail

template <>
struct kernel_for<route_t, device::host> {
  static void run(exec::host_context& ctx, route_args const& a) {
    auto const& r = a.out;
    index_t const tokens = a.logits.extent(0), experts = r.experts();
    index_t const sequences = index_t(a.sequence_begins.size()) - 1;
    detail::require(sequences >= 0 && detail::same_shape(a.logits, tokens, experts) &&
                        detail::same_shape(r, tokens, sequences) && a.sequence_begins.back() == tokens &&
                        a.capacity_factor >= 0,
                    "tenon::route: shapes differ. Fix: logits [t, experts], 1 to experts slots, sequences that end at "
                    "t, a capacity_factor that is not negative.");
    ctx.pool().for_range(tokens, detail::piece_rows(16 * experts), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        detail::softmax_row(detail::row(a.logits, t), experts, detail::row(r.probabilities, t));
        detail::choose(r, t);
      }
    });
    arena_scope scope(ctx.scratch());
    auto const next = ctx.scratch().allocate_matrix<index_t>(sequences, experts);  // the row that a slot will take
    ctx.pool().for_each(sequences, [&](index_t s) { count(a, s, detail::row(next, s)); });
    r.begins[0] = 0;
    for (index_t e = 0, row = 0; e < experts; ++e) {
      for (index_t s = 0; s < sequences; ++s) row += std::exchange(next(s, e), row);
      r.begins[std::size_t(e) + 1] = row;
    }
    ctx.pool().for_each(sequences, [&](index_t s) { place(a, s, detail::row(next, s)); });
  }

 private:
  /// Counts the slots of sequence s and drops those beyond the capacity; `kept` receives how many are left.
  static void count(route_args const& a, index_t s, index_t* kept) {
    auto const& r = a.out;
    index_t const begin = a.sequence_begins[std::size_t(s)], end = a.sequence_begins[std::size_t(s) + 1];
    index_t const capacity = detail::expert_capacity(a.capacity_factor, end - begin, r.slots(), r.experts());
    index_t* const counts = detail::row(r.counts, s);
    std::fill(counts, counts + r.experts(), 0);
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < r.slots(); ++j) {
        bool const fits = counts[r.chosen(t, j)]++ < capacity;
        r.places(t, j) = fits ? 0 : -1;
        if (!fits) r.weights(t, j) = 0;
      }
    for (index_t e = 0; e < r.experts(); ++e) kept[e] = std::min(counts[e], capacity);
  }
  static void place(route_args const& a, index_t s, index_t* next) {
    auto const& r = a.out;
    for (index_t t = a.sequence_begins[std::size_t(s)]; t < a.sequence_begins[std::size_t(s) + 1]; ++t)
      for (index_t j = 0; j < r.slots(); ++j) {
        if (r.places(t, j) < 0) continue;
        r.places(t, j) = next[r.chosen(t, j)]++;
        r.tokens[std::size_t(r.places(t, j))] = t;
      }
  }
};

template <>
struct kernel_for<route_backward_t, device::host> {
  static void run(exec::host_context& ctx, route_backward_args const& a) {
    auto const& r = a.from;
    index_t const tokens = a.d_logits.extent(0), sequences = index_t(a.sequence_begins.size()) - 1;
    detail::require(sequences >= 0 && detail::same_shape(r, tokens, sequences) &&
                        detail::same_shape(a.d_weights, tokens, r.slots()) &&
                        detail::same_shape(a.d_logits, tokens, r.experts()) && a.sequence_begins.back() == tokens,
                    "tenon::route_backward: shapes differ. Fix: what route wrote, d_weights [t, k], d_logits "
                    "[t, experts].");
    ctx.pool().for_each(sequences, [&](index_t s) {
      index_t const begin = a.sequence_begins[std::size_t(s)], end = a.sequence_begins[std::size_t(s) + 1];
      index_t const* const counts = detail::row(r.counts, s);
      // Of one probability: experts x share / length, with share = count / (length k).
      double const unit = double(r.experts()) / (double(end - begin) * double(r.slots()) * double(end - begin));
      float const scale = float(double(a.balance_scale) * unit);
      exact_sum balance;
      for (index_t t = begin; t < end; ++t) {
        if (a.balance) balance.add(weighted_by(counts, detail::row(r.probabilities, t), r.experts()));
        token(a, t, counts, scale);
      }
      if (a.balance) a.balance[s] = balance.value() * unit;
    });
  }

 private:
  /// Each product is exact.
  static double weighted_by(index_t const* counts, float const* p, index_t experts) {
    double sum = 0;
    for (index_t e = 0; e < experts; ++e) sum += double(counts[e]) * double(p[e]);
    return sum;
  }
  static void token(route_backward_args const& a, index_t t, index_t const* counts, float scale) {
    auto const& r = a.from;
    float* const d = detail::row(a.d_logits, t);  // of the probabilities, first
    float const* const p = detail::row(r.probabilities, t);
    std::fill_n(d, r.experts(), 0.0f);
    float const sum = detail::chosen_sum(r, t);
    float mean = 0;  // of d_weights under the weights before anything was dropped
    for (index_t j = 0; j < r.slots(); ++j) mean = std::fma(a.d_weights(t, j), p[r.chosen(t, j)] / sum, mean);
    for (index_t j = 0; j < r.slots(); ++j) d[r.chosen(t, j)] = (a.d_weights(t, j) - mean) / sum;
    for (index_t e = 0; e < r.experts(); ++e) d[e] = std::fma(scale, float(counts[e]), d[e]);
    auto total = simd::zeros();
    detail::for_lanes(0, r.experts(), [&](index_t j, int n) TENON_INLINE_LAMBDA {
      total = simd::fma(simd::load(p + j, n), simd::load(d + j, n), total);
    });
    auto const shift = simd::broadcast(simd::reduce_add(total));
    detail::for_lanes(0, r.experts(), [&](index_t j, int n) TENON_INLINE_LAMBDA {
      simd::store(d + j, simd::load(p + j, n) * (simd::load(d + j, n) - shift), n);
    });
  }
};

template <>
struct kernel_for<dispatch_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, dispatch_args<T> const& a) {
    index_t const rows = a.out.extent(0), cols = a.out.extent(1);
    bool inside = true;
    for (index_t const from : a.rows) inside = inside && from >= -1 && from < a.x.extent(0);
    detail::require(
        inside && index_t(a.rows.size()) == rows && detail::same_shape(a.out, rows, cols) &&
            detail::same_shape(a.x, a.x.extent(0), cols),
        "tenon::dispatch: shapes differ, or a row is not in x. Fix: x [n, c], rows [m] below n, out [m, c].");
    ctx.pool().for_range(rows, detail::piece_rows(cols), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        index_t const from = a.rows[std::size_t(i)];
        if (from < 0) std::fill_n(detail::row(a.out, i), cols, T(0.0f));
        else std::copy_n(detail::row(a.x, from), cols, detail::row(a.out, i));
      }
    });
  }
};

template <>
struct kernel_for<combine_t, device::host> {
  template <class T, class Residual>
  static void run(exec::host_context& ctx, combine_args<T, Residual> const& a) {
    index_t const tokens = a.out.extent(0), cols = a.out.extent(1), slots = a.places.extent(1);
    detail::require(detail::same_shape(a.out, tokens, cols) && detail::same_shape(a.y, a.y.extent(0), cols) &&
                        detail::same_shape(a.places, tokens, slots) &&
                        (a.weights.empty() || detail::same_shape(a.weights, tokens, slots)) &&
                        (a.residual.empty() || detail::same_shape(a.residual, tokens, cols)),
                    "tenon::combine: shapes differ. Fix: y [rows, c], places, weights [t, k], residual, out [t, c].");
    ctx.pool().for_range(tokens, detail::piece_rows(slots * cols), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t)
        detail::for_lanes(0, cols, [&](index_t c, int n) TENON_INLINE_LAMBDA {
          auto sum = a.residual.empty() ? simd::zeros() : simd::load(detail::row(a.residual, t) + c, n);
          for (index_t j = 0; j < slots; ++j) {
            index_t const from = a.places(t, j);
            if (from < 0) continue;
            auto const weight = simd::broadcast(a.weights.empty() ? 1.0f : a.weights(t, j));
            sum = simd::fma(weight, simd::load(detail::row(a.y, from) + c, n), sum);
          }
          simd::store(detail::row(a.out, t) + c, sum, n);
        });
    });
  }
};

template <>
struct kernel_for<combine_backward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, combine_backward_args<T> const& a) {
    index_t const tokens = a.d_out.extent(0), cols = a.d_out.extent(1), slots = a.places.extent(1);
    detail::require(
        detail::same_shape(a.d_out, tokens, cols) && detail::same_shape(a.y, a.y.extent(0), cols) &&
            detail::same_shape(a.d_y, a.y.extent(0), cols) && detail::same_shape(a.places, tokens, slots) &&
            detail::same_shape(a.weights, tokens, slots) && detail::same_shape(a.d_weights, tokens, slots),
        "tenon::combine_backward: shapes differ. Fix: d_out [t, c], y, d_y [rows, c], places, weights, d_weights "
        "[t, k].");
    ctx.pool().for_range(tokens, detail::piece_rows(slots * cols), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t)
        for (index_t j = 0; j < slots; ++j) a.d_weights(t, j) = slot(a, t, j);
    });
  }

 private:
  template <class T>
  static float slot(combine_backward_args<T> const& a, index_t t, index_t j) {
    index_t const at = a.places(t, j);
    if (at < 0) return 0;
    auto const weight = simd::broadcast(a.weights(t, j));
    auto dot = simd::zeros();
    detail::for_lanes(0, a.d_out.extent(1), [&](index_t c, int n) TENON_INLINE_LAMBDA {
      auto const d = simd::load(detail::row(a.d_out, t) + c, n);
      dot = simd::fma(d, simd::load(detail::row(a.y, at) + c, n), dot);
      simd::store(detail::row(a.d_y, at) + c, weight * d, n);
    });
    return simd::reduce_add(dot);
  }
};

}  // namespace tenon::ops
