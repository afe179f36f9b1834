// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <vector>

#include <tenon/ops/calibrate.hpp>
#include <tenon/ops/host/quantize.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {
namespace detail {

/// The numbers that each value of a block can be, once the block has its scales: read off the decoder.
template <weight_format F>
class level_table {
 public:
  static constexpr int values = int(layout_of(F).values), bytes = int(layout_of(F).bytes);

  level_table() {
    for (int i = 0; i < values; ++i) levels::put(level_bits.data(), i, lowest() + count - 1);
  }
  /// Takes the levels out of `block`, whose scales then give the table.
  void read(block_byte* block) {
    for (int i = 0; i < bytes; ++i) block[i] &= block_byte(~level_bits[std::size_t(i)]);
    for (int first = 0; first < count; first += sharing) {
      std::array<block_byte, std::size_t(bytes)> trial;
      std::copy_n(block, bytes, trial.data());
      float decoded[values];
      for (int i = 0; i < values; ++i) levels::put(trial.data(), i, lowest() + (first + i % sharing) % count);
      codec::decode(trial.data(), decoded);
      for (int i = 0; i < values; ++i) numbers[i / sharing][(first + i % sharing) % count] = decoded[i];
    }
  }
  /// Gives value i the level nearest to x, of two the lower one, and returns the number that this is.
  float put_nearest(block_byte* block, int i, double x) const {
    auto const& all = numbers[i / sharing];
    int best = 0;
    for (int l = 1; l < count; ++l)
      if (std::fabs(double(all[l]) - x) < std::fabs(double(all[best]) - x)) best = l;
    levels::put(block, i, lowest() + best);
    return all[best];
  }

 private:
  using codec = block_codec<F>;
  using levels = typename codec::levels;
  static constexpr int count = 1 << [] {
    switch (F) {
      using enum weight_format;
      case q2_k: return 2;
      case q3_k: return 3;
      case q5_0:
      case q5_1:
      case q5_k: return 5;
      case q6_k: return 6;
      case q8_0: return 8;
      default: return 4;
    }
  }();
  /// So many values have a scale in common.
  static constexpr int sharing =
      F == weight_format::q2_k || F == weight_format::q3_k || F == weight_format::q6_k ? 16 : 32;

  static int lowest() {
    block_byte const zeros[bytes]{};
    return levels::get(zeros, 0);
  }
  std::array<block_byte, std::size_t(bytes)> level_bits{};
  float numbers[values / sharing][count];
};

/// Row r's weight k becomes `number`: what is lost, the `count` columns behind it take over.
inline void pass_on(quantize_for_inputs_args const& a, index_t r, index_t k, double number, double* behind,
                    index_t count) {
  double const lost = double(a.in[r * a.cols + k]) - number;
  double const* const u = detail::row(a.feedback, k) + k + 1;
  for (index_t i = 0; i < count; ++i) behind[i] = std::fma(lost, u[i], behind[i]);
}

/// Some rows at a time, so that a row of the feedback is used while it is near.
template <weight_format F>
void quantize_rows_for_inputs(quantize_for_inputs_args const& a, index_t begin, index_t end) {
  using table = level_table<F>;
  index_t const rows = end - begin, cols = a.cols;
  weight_view const shape{F, nullptr, a.rows, cols};
  std::vector<double> wanted(a.in + begin * cols, a.in + end * cols);
  std::vector<table> tables(static_cast<std::size_t>(rows));
  for (index_t first = 0; first < cols; first += table::values) {
    auto const block = [&](index_t r) {
      return reinterpret_cast<block_byte*>(a.out + (begin + r) * shape.row_bytes() +
                                           first / table::values * table::bytes);
    };
    for (index_t r = 0; r < rows; ++r) {
      // What the block's weights will be if its own columns lose nothing of what is wanted of them.
      double expected[table::values];
      std::copy_n(wanted.data() + r * cols + first, table::values, expected);
      for (index_t i = 0; i < table::values; ++i)
        pass_on(a, begin + r, first + i, expected[i], expected + i + 1, table::values - i - 1);
      float now[table::values];
      std::copy_n(expected, table::values, now);
      encode_weights(F, now, table::values, reinterpret_cast<std::byte*>(block(r)));
      tables[std::size_t(r)].read(block(r));
    }
    for (index_t k = first; k < first + table::values; ++k)
      for (index_t r = 0; r < rows; ++r) {
        double* const row = wanted.data() + r * cols;
        float const got = tables[std::size_t(r)].put_nearest(block(r), int(k - first), row[k]);
        pass_on(a, begin + r, k, double(got), row + k + 1, cols - k - 1);
      }
  }
}

}  // namespace detail

template <>
struct kernel_for<input_feedback_t, device::host> {
  template <std::same_as<input_feedback_args> Args>  // a file that does not call it compiles nothing
  static void run(exec::host_context& ctx, Args const& a) {
    index_t const n = a.out.extent(0);
    detail::require(detail::same_shape(a.out, n, n) && detail::same_shape(a.moments, n, n),
                    "tenon::ops::input_feedback: shapes do not fit. Fix: moments and out [k,k], rows contiguous.");
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += double(a.moments(i, i));
    if (n > 0 && !(sum > 0 && std::isfinite(sum)))
      throw argument_error("tenon::ops::input_feedback: the inputs' squares sum to " + std::to_string(sum) +
                           ". Fix: inputs that are numbers and not all 0.");
    ctx.pool().for_range(n, detail::piece_rows(n), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        std::copy_n(detail::row(a.moments, i), n, detail::row(a.out, i));
        a.out(i, i) += a.damping * sum / double(n);
      }
    });
    // Columns are taken away from the last on. Below the diagonal is what is left of the moments, above it U appears.
    // Some columns at a time: first from their own rows, then from those above, which stay in cache meanwhile.
    auto const take_away = [&](index_t first, index_t end, index_t j) {
      double* const left = detail::row(a.out, j);
      for (index_t k = end - 1; k >= std::max(first, j + 1); --k) {
        double const* const last = detail::row(a.out, k);
        double const u = last[j] / last[k];
        for (index_t i = 0; i <= j; ++i) left[i] = std::fma(-u, last[i], left[i]);
        left[k] = u;
      }
    };
    for (index_t end = n; end > 0; end -= columns_at_once) {
      index_t const first = std::max<index_t>(0, end - columns_at_once);
      for (index_t j = end - 1; j >= first; --j) take_away(first, end, j);
      ctx.pool().for_range(first, columns_at_once, [&](index_t begin, index_t stop) {
        for (index_t j = begin; j < stop; ++j) take_away(first, end, j);
      });
    }
  }

 private:
  static constexpr index_t columns_at_once = 32;
};

template <>
struct kernel_for<quantize_for_inputs_t, device::host> {
  template <std::same_as<quantize_for_inputs_args> Args>
  static void run(exec::host_context& ctx, Args const& a) {
    auto const& layout = layout_of(a.format);
    detail::require(detail::same_shape(a.feedback, a.cols, a.cols),
                    "tenon::ops::quantize_for_inputs: feedback is not [cols, cols], rows contiguous.");
    if (!is_blocks(a.format) || a.cols % layout.values)
      throw argument_error("tenon::ops::quantize_for_inputs: rows of " + std::to_string(a.cols) + " numbers to " +
                           layout.name + ". Fix: a format in blocks, and rows of whole blocks.");
    with_block_format(a.format, [&]<class F>(F) {
      ctx.pool().for_range(a.rows, rows_at_once, [&](index_t begin, index_t end) {
        detail::quantize_rows_for_inputs<F::value>(a, begin, end);
      });
    });
  }

 private:
  static constexpr index_t rows_at_once = 8;
};

}  // namespace tenon::ops
