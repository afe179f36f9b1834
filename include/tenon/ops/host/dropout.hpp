// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstring>

#include <tenon/ops/dropout.hpp>
#include <tenon/ops/host/philox_lanes.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {

template <>
struct kernel_for<dropout_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, dropout_args<T> const& a) {
    index_t const tokens = a.x.extent(0), cols = a.x.extent(1);
    detail::require(
        detail::same_shape(a.x, tokens, cols) && detail::same_shape(a.out, tokens, cols),
        "tenon::ops::dropout: x and out have different shapes. Fix: both [tokens, features], dense columns.");
    detail::require(
        a.rate >= 0 && a.rate < 1 && a.sequence_length > 0 && a.first_position >= 0,
        "tenon::ops::dropout: rate is not in [0, 1), sequence_length is not positive or first_position is negative. "
        "Fix: a rate such as 0.1, and places in a sample.");
    ctx.pool().for_range(tokens, detail::piece_rows(cols, 1), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) drop_row(a, t, cols);
    });
  }

 private:
  template <class T>
  static void drop_row(dropout_args<T> const& a, index_t t, index_t cols) {
    index_t const token = a.first_token + t;
    std::uint64_t const sample = a.first_sample + std::uint64_t(token / a.sequence_length);
    std::uint64_t const first = std::uint64_t(a.first_position + token % a.sequence_length) * std::uint64_t(cols);
    T const* const x = detail::row(a.x, t);
    T* const out = detail::row(a.out, t);
    // word >> 8 and rate 2^24 are exact: the comparison is that of `random_stream::uniform` with rate.
    auto const scale = simd::broadcast(1.0f / (1.0f - a.rate)), bound = simd::broadcast(a.rate * 0x1p24f);
    constexpr int quads = 32;
    std::uint32_t words[4 * quads];
    for (index_t begin = 0; begin < cols;) {
      std::uint64_t const position = first + std::uint64_t(begin);
      index_t const skip = index_t(position % 4), end = std::min(cols, begin + 4 * quads - skip);
      int const needed = int(round_up(skip + end - begin, 32) / 4);
      detail::random_quads(a.stream, sample, position / 4, needed, words);
      // Sixteen words that begin at any of them: the row need not begin with a quad.
      detail::for_lanes(begin, end, [&](index_t c, int n) TENON_INLINE_LAMBDA {
        std::int32_t lane_words[lanes] = {};
        std::memcpy(lane_words, words + skip + (c - begin), std::size_t(n) * sizeof(std::int32_t));
        auto const dropped = simd::to_float(simd::shift_right<8>(simd::load_int(lane_words))) < bound;
        simd::store(out + c, simd::select(dropped, simd::zeros(), simd::load(x + c, n) * scale), n);
      });
      begin = end;
    }
  }
};

}  // namespace tenon::ops
