// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <new>

#include <tenon/ops/grad_norm.hpp>
#include <tenon/ops/host/double_lanes.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {
namespace detail {

/// Adds doubles >= 0 to an `exact_sum` in batches, without an error and much faster than one by one. Adding and
/// subtracting a large power of two splits a value into a multiple of that power's last place and an exact rest; the
/// multiples of a batch fit into one double's 53 bits. Two splits leave nothing of most batches.
class exact_batch {
 public:
  static constexpr int size = 256;

  explicit exact_batch(exact_sum& target) : total(target) {}
  ~exact_batch() { flush(); }
  exact_batch(exact_batch const&) = delete;
  exact_batch& operator=(exact_batch const&) = delete;

  /// Adds the sums over each sixteen of [x, x + n); the last is filled up with zeros.
  void add_squares(float const* x, index_t n) {
    index_t const eights = n / (8 * lanes) * (8 * lanes);
    for (index_t i = 0; i < eights; i += 8 * lanes) push(squares_of_groups(x + i));
    if (eights == n) return;
    float tail[8 * lanes] = {};
    std::copy(x + eights, x + n, tail);
    push(squares_of_groups(tail));  // groups of zeros add zero
  }

 private:
  void push(f64x8 eight) {
    store_doubles(values + count, eight);
    largest = larger(largest, eight);
    count += 8;
    if (count == size) flush();
  }
  void flush() {
    double t[8];
    store_doubles(t, std::exchange(largest, broadcast_double(0)));
    double const most = *std::max_element(t, t + 8);
    // All values are below 2^exponent; a multiple of 2^(exponent - 43) takes 43 bits, the sum of 256 of them 51.
    int const exponent = int(std::bit_cast<std::uint64_t>(most) >> 52) - 1022;
    if (exponent > 900 || exponent < -700) add_each();
    else split(std::ldexp(1.5, exponent + 9), std::ldexp(1.5, exponent - 35));
    count = 0;
  }
  void split(double first, double second) {
    f64x8 const c = broadcast_double(first), d = broadcast_double(second);
    f64x8 high = broadcast_double(0), low = high, rest = high;
    for (int i = 0; i < count; i += 8) {
      f64x8 const v = load_doubles(values + i), h = (v + c) - c, remaining = v - h, l = (remaining + d) - d;
      high = high + h, low = low + l, rest = rest + absolute(remaining - l);
      store_doubles(values + i, remaining - l);
    }
    bool const exhausted = sum_of(rest) == 0;
    total.add(sum_of(high));  // NaN poisons the total here
    total.add(sum_of(low));
    if (!exhausted) add_each();
  }
  static double sum_of(f64x8 a) {
    double t[8], sum = 0;
    store_doubles(t, a);
    for (double const x : t) sum += x;
    return sum;
  }
  void add_each() {
    for (int i = 0; i < count; ++i)
      if (values[i] != 0) total.add(values[i]);
  }

  exact_sum& total;
  int count = 0;
  f64x8 largest = broadcast_double(0);
  alignas(cache_line_bytes) double values[size];
};

/// The exact sum of squares of all parts, as described at `grad_norm_args`.
inline void add_sum_of_squares(exec::host_context& ctx, std::span<norm_part const> parts, exact_sum& total) {
  constexpr index_t piece = index_t(1) << 18;  // elements: 1 MiB
  arena_scope scope(ctx.scratch());
  int const threads = ctx.pool().size();
  exact_sum* const sums = ctx.scratch().allocate<exact_sum>(threads);
  index_t* const first_piece = ctx.scratch().allocate<index_t>(index_t(parts.size()) + 1);
  auto const rows_in_piece = [](norm_part const& p) {
    return std::max<index_t>(1, piece / std::max<index_t>(1, p.cols));
  };
  first_piece[0] = 0;
  for (std::size_t i = 0; i < parts.size(); ++i)
    first_piece[i + 1] = first_piece[i] + ceil_div(parts[i].rows, rows_in_piece(parts[i]));
  index_t const pieces = first_piece[parts.size()];
  for (int t = 0; t < threads; ++t) new (sums + t) exact_sum();
  std::atomic<index_t> next{0};
  ctx.pool().run([&](int thread) {
    exact_batch batch(sums[thread]);
    for (index_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
      std::size_t const which =
          std::size_t(std::upper_bound(first_piece, first_piece + parts.size() + 1, i) - first_piece - 1);
      norm_part const& p = parts[which];
      index_t const begin = (i - first_piece[which]) * rows_in_piece(p),
                    end = std::min(p.rows, begin + rows_in_piece(p));
      if (p.cols % lanes == 0) batch.add_squares(p.p + begin * p.cols, (end - begin) * p.cols);
      else
        for (index_t r = begin; r < end; ++r) batch.add_squares(p.p + r * p.cols, p.cols);
    }
  });
  for (int t = 0; t < threads; ++t) total.add(sums[t]);
}

}  // namespace detail

template <>
struct kernel_for<grad_norm_t, device::host> {
  static void run(exec::host_context& ctx, grad_norm_args const& a) {
    exact_sum total;
    detail::add_sum_of_squares(ctx, a.parts, total);
    if (a.result) *a.result = std::sqrt(total.value());
    if (a.squares) a.squares->add(total);
  }
};

}  // namespace tenon::ops
