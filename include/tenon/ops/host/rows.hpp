// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What the host kernels that walk over rows share: pieces of work, leaves of tokens, lanes with a tail.
#include <algorithm>
#include <utility>

#include <tenon/core/error.hpp>
#include <tenon/exec/host/context.hpp>
#include <tenon/exec/host/simd.hpp>

namespace tenon::ops::detail {

/// Throws argument_error when the caller's shapes do not fit together.
inline void require(bool fits, char const* what) {
  if (!fits) throw argument_error(what);
}
template <class T>
bool same_shape(matrix_view<T> a, index_t rows, index_t cols) {
  return a.extent(0) == rows && a.extent(1) == cols && (cols <= 1 || a.stride(1) == 1);
}
template <class T>
T* row(matrix_view<T> m, index_t r) {
  return m.data() + r * m.stride(0);
}

/// Elements that one thread takes at a time: enough to hide the hand-out, few enough to share a small tensor.
inline constexpr index_t piece_elements = 16384;

/// Rows that one thread takes at a time, a multiple of `multiple`.
inline index_t piece_rows(index_t cols, index_t multiple = 1) {
  return round_up(std::max<index_t>(1, piece_elements / std::max<index_t>(1, cols)), multiple);
}
/// A leaf length of 0 means one leaf for everything.
inline index_t leaf_length(index_t leaf, index_t extent) { return leaf > 0 ? leaf : std::max<index_t>(1, extent); }

/// function(j, n) for each sixteen columns [j, j + n) of [begin, end); n is the constant `lanes` but for the last.
template <class Function>
TENON_ALWAYS_INLINE void for_lanes(index_t begin, index_t end, Function&& function) {
  index_t j = begin;
  for (; j + lanes <= end; j += lanes) function(j, lanes);
  if (j < end) function(j, int(end - j));
}
/// Calls function(r) for r = 0 .. Count-1, written out, so that arrays indexed by r stay in registers.
template <int Count, class Function>
TENON_ALWAYS_INLINE void for_each_constant(Function&& function) {
  [&]<int... r>(std::integer_sequence<int, r...>) TENON_INLINE_LAMBDA { (function(r), ...); }
  (std::make_integer_sequence<int, Count>{});
}

/// out [n] = (or +=) the tree over the rows of `leaves` [count, n]; overwrites `leaves`.
/// The same additions as `tenon::tree`: the pairs one apart, then two apart, four apart, ... Of no leaves the sum is 0.
inline void combine_leaves(exec::host_context& ctx, float* leaves, index_t count, index_t n, float* out,
                           bool accumulate) {
  index_t const width = 1024;
  ctx.pool().for_range(n, width, [&](index_t begin, index_t end) {
    for (index_t apart = 1; apart < count; apart *= 2)
      for (index_t i = 0; i + apart < count; i += 2 * apart) {
        float* const left = leaves + i * n;
        float const* const right = leaves + (i + apart) * n;
        for_lanes(begin, end, [&](index_t j, int k) TENON_INLINE_LAMBDA {
          simd::store(left + j, simd::load(left + j, k) + simd::load(right + j, k), k);
        });
      }
    for_lanes(begin, end, [&](index_t j, int k) TENON_INLINE_LAMBDA {
      auto const sum = count > 0 ? simd::load(leaves + j, k) : simd::zeros();
      simd::store(out + j, accumulate ? simd::load(out + j, k) + sum : sum, k);
    });
  });
}

}  // namespace tenon::ops::detail
