// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/ops/dropout.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {

template <>
struct kernel_for<dropout_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, dropout_args<T> const& a) {
    index_t const tokens = a.x.extent(0), cols = a.x.extent(1);
    detail::require(detail::same_shape(a.x, tokens, cols) && detail::same_shape(a.out, tokens, cols),
                    "tenon::ops::dropout: x and out have different shapes. Fix: both [tokens, features], dense columns.");
    detail::require(a.rate >= 0 && a.rate < 1 && a.sequence_length > 0,
                    "tenon::ops::dropout: rate is not in [0, 1) or sequence_length is not positive. Fix: a rate such as 0.1.");
    ctx.pool().for_range(tokens, detail::piece_rows(cols, 1), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) drop_row(a, t, cols);
    });
  }

 private:
  template <class T>
  static void drop_row(dropout_args<T> const& a, index_t t, index_t cols) {
    std::uint64_t const sample = a.first_sample + std::uint64_t(t / a.sequence_length);
    std::uint64_t position = std::uint64_t(t % a.sequence_length) * std::uint64_t(cols);
    T const* const x = detail::row(a.x, t);
    T* const out = detail::row(a.out, t);
    auto const scale = simd::broadcast(1.0f / (1.0f - a.rate)), rate = simd::broadcast(a.rate);
    philox::counter_type words{};
    std::uint64_t held = ~std::uint64_t(0);  // the quad that `words` is of
    detail::for_lanes(0, cols, [&](index_t c, int n) {
      float uniform[lanes] = {};
      for (int i = 0; i < n; ++i, ++position) {
        if (position / 4 != held) words = a.stream.quad(sample, held = position / 4);
        uniform[i] = float(words[position % 4] >> 8) * 0x1p-24f;
      }
      auto const dropped = simd::load(uniform) < rate;
      simd::store(out + c, simd::select(dropped, simd::zeros(), simd::load(x + c, n) * scale), n);
    });
  }
};

}  // namespace tenon::ops
