// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Packing: a strip of an operand of any element type becomes fp32 in the order in which the kernel reads it.
#include <tenon/core/error.hpp>
#include <tenon/exec/host/simd.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/host/gemm_blocking.hpp>
#include <tenon/ops/host/gemm_kernel.hpp>

namespace tenon::ops::detail {

/// One operand seen as strips: `strip` runs over rows of a or columns of b, `k` over the summed index.
template <class T>
struct gemm_operand {
  T const* data;
  index_t strip_extent, strip_stride, k_stride;
  T const* at(index_t strip, index_t k) const { return data + strip * strip_stride + k * k_stride; }
};

/// Where the k that the kernel counts lie in an operand: leaf by leaf, and in each leaf piece by piece.
struct gemm_k_map {
  std::span<k_piece const> pieces;  ///< empty: as they are counted
  index_t leaf;                     ///< of all pieces together

  /// function(k, at, n) for each run of k [k, k + n) of [k0, k1) that lies at [at, at + n).
  template <class Function>
  void for_runs(index_t k0, index_t k1, Function&& function) const {
    if (pieces.empty()) return function(k0, k0, k1 - k0);
    for (index_t q = k0 / leaf, k = q * leaf; k < k1; ++q) {
      index_t first = 0;
      for (auto const& piece : pieces) {
        index_t const before = q * piece.leaf_rows(), rows = std::min(piece.leaf_rows(), piece.rows - before);
        index_t const begin = std::max(k, k0), end = std::min(k + rows, k1);
        if (begin < end) function(begin, first + before + (begin - k), end - begin);
        k += rows;
        first += piece.rows;
      }
    }
  }
};

/// Neighbouring strips of `width` each: indices [first, first + strips * width) of an operand and k in [k0, k1) become
/// to[strip * strip_values + k * width + index]. What stands for indices past the operand's extent has no meaning.
/// Up to `lanes` values past the end of a strip may be written.
struct gemm_strips {
  float* to;
  index_t strip_values;
  int strips, width;
  index_t first, k0, k1;
};

#if TENON_SIMD_AVX512() || TENON_SIMD_AVX2()
TENON_ALWAYS_INLINE __m256 load_8(float const* p) { return _mm256_loadu_ps(p); }
TENON_ALWAYS_INLINE __m256 load_8(bf16 const* p) {
  __m128i const halves = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
TENON_ALWAYS_INLINE __m256 load_8(fp16 const* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p)));
}
/// Transposes each 4 x 4 half: column j of the low halves, then of the high halves, in c[j].
TENON_ALWAYS_INLINE void transpose_4x4_twice(__m256 const (&r)[4], __m256 (&c)[4]) {
  __m256 const a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
  __m256 const d = _mm256_unpacklo_ps(r[2], r[3]), e = _mm256_unpackhi_ps(r[2], r[3]);
  c[0] = _mm256_shuffle_ps(a, d, 0x44);
  c[1] = _mm256_shuffle_ps(a, d, 0xee);
  c[2] = _mm256_shuffle_ps(b, e, 0x44);
  c[3] = _mm256_shuffle_ps(b, e, 0xee);
}
/// Rows of a strip; those past its end, of which nothing is used, are the last one again.
template <class T, bool Whole>
struct gemm_strip_rows {
  T const* from;
  index_t stride, last;
  T const* operator()(index_t i) const { return from + (Whole ? i : std::min(i, last)) * stride; }
};
/// Eight rows from `first` on, k in [k, k + 8), become to [8 k][8 rows].
template <class Rows>
TENON_ALWAYS_INLINE void transpose_8x8(float* to, index_t to_stride, Rows rows, index_t first, index_t k) {
  __m256 near[4], far[4], c[4];  // k 0-3 and k 4-7: row i in the low half, row i + 4 in the high one
  unrolled<4>([&](auto i) TENON_INLINE_LAMBDA {
    auto const *low = rows(first + i) + k, *high = rows(first + i + 4) + k;
    if constexpr (std::same_as<decltype(low), float const*>) {
      near[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
      far[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    } else {
      __m256 const x = load_8(low), y = load_8(high);
      near[i] = _mm256_permute2f128_ps(x, y, 0x20);
      far[i] = _mm256_permute2f128_ps(x, y, 0x31);
    }
  });
  transpose_4x4_twice(near, c);
  unrolled<4>([&](auto i) TENON_INLINE_LAMBDA { _mm256_storeu_ps(to + i * to_stride, c[i]); });
  transpose_4x4_twice(far, c);
  unrolled<4>([&](auto i) TENON_INLINE_LAMBDA { _mm256_storeu_ps(to + (i + 4) * to_stride, c[i]); });
}
/// Width rows, k in [k, k + 8), become to [8 k][Width]. In units of four rows: what is written past Width is
/// overwritten by the next k.
template <int Width, class Rows>
TENON_ALWAYS_INLINE void transpose_narrow(float* to, Rows rows, index_t k) {
  constexpr int units = (Width + 3) / 4;
  __m256 c[units][4];
  unrolled<units>([&](auto u) TENON_INLINE_LAMBDA {
    __m256 r[4];
    unrolled<4>([&](auto i) TENON_INLINE_LAMBDA {
      if constexpr (4 * u + i < Width) r[i] = load_8(rows(4 * u + i) + k);
      else r[i] = _mm256_setzero_ps();
    });
    transpose_4x4_twice(r, c[u]);
  });
  unrolled<4 * units>([&](auto i) TENON_INLINE_LAMBDA {
    constexpr int k = i / units, u = i % units;
    _mm_storeu_ps(to + k * Width + 4 * u, _mm256_castps256_ps128(c[u][k]));
  });
  unrolled<4 * units>([&](auto i) TENON_INLINE_LAMBDA {
    constexpr int k = i / units, u = i % units;
    _mm_storeu_ps(to + (k + 4) * Width + 4 * u, _mm256_extractf128_ps(c[u][k], 1));
  });
}

/// The part of a strip whose k come in eights; returns how far it came.
template <int Width, class Rows>
index_t pack_strip_along_k(float* to, Rows rows, index_t length) {
  index_t k = 0;
  if constexpr (Width >= lanes) {
    // All of a cache line at once: rows a power of two apart push each other out.
    for (; k + lanes <= length; k += lanes)
      for (int s = 0; s < Width; s += 8) {
        transpose_8x8(to + k * Width + s, Width, rows, s, k);
        transpose_8x8(to + (k + 8) * Width + s, Width, rows, s, k + 8);
      }
    for (; k + 8 <= length; k += 8)
      for (int s = 0; s < Width; s += 8) transpose_8x8(to + k * Width + s, Width, rows, s, k);
  } else {
    for (; k + 8 <= length; k += 8) transpose_narrow<Width>(to + k * Width, rows, k);
  }
  return k;
}
template <class Rows>
index_t pack_strip_along_k(int width, float* to, Rows rows, index_t length) {
  constexpr int step = gemm_tile::row_step;
  if (width == gemm_tile::cols) return pack_strip_along_k<gemm_tile::cols>(to, rows, length);
  if (width == 3 * step) return pack_strip_along_k<3 * step>(to, rows, length);
  if (width == 2 * step) return pack_strip_along_k<2 * step>(to, rows, length);
  if (width == step) return pack_strip_along_k<step>(to, rows, length);
  return 0;
}
#else
template <class T, bool Whole>
struct gemm_strip_rows {
  T const* from;
  index_t stride, last;
};
template <class Rows>
index_t pack_strip_along_k(int, float*, Rows, index_t) {
  return 0;
}
#endif

/// Strips whose k runs fastest in memory.
template <class T>
void pack_along_k(gemm_strips const& p, gemm_operand<T> const& operand) {
  index_t const length = p.k1 - p.k0;
  for (int strip = 0; strip < p.strips; ++strip) {
    index_t const first = p.first + strip * p.width,
                  last = std::min<index_t>(p.width, operand.strip_extent - first) - 1;
    float* const to = p.to + strip * p.strip_values;
    T const* const from = operand.at(first, p.k0);
    index_t const stride = operand.strip_stride;
    index_t k = last + 1 == p.width
                    ? pack_strip_along_k(p.width, to, gemm_strip_rows<T, true>{from, stride, last}, length)
                    : pack_strip_along_k(p.width, to, gemm_strip_rows<T, false>{from, stride, last}, length);
    for (; k < length; ++k)
      for (index_t i = 0; i < p.width; ++i) to[k * p.width + i] = float(from[std::min(i, last) * stride + k]);
  }
}

/// Copies `strips` whole strips whose own index runs fastest. Sixteen lanes are read at a time: what lies past a
/// strip's width is overwritten by its next k. A few k at a time, so that both sides are walked in pieces of several
/// lines.
template <int Width, class T>
void pack_whole_strips(gemm_strips const& p, int strips, T const* from, index_t k_stride) {
  constexpr index_t at_once = 8;
  for (index_t k0 = 0; k0 < p.k1 - p.k0; k0 += at_once) {
    index_t const k1 = std::min(k0 + at_once, p.k1 - p.k0);
    for (int strip = 0; strip < strips; ++strip)
      for (index_t k = k0; k < k1; ++k)
        unrolled<(Width + lanes - 1) / lanes>([&](auto v) TENON_INLINE_LAMBDA {
          simd::store(p.to + strip * p.strip_values + k * Width + v * lanes,
                      simd::load(from + k * k_stride + strip * Width + v * lanes));
        });
  }
}

/// Strips whose own index runs fastest in memory: a copy with a conversion.
template <class T>
void pack_across_k(gemm_strips const& p, gemm_operand<T> const& operand) {
  index_t const readable = operand.strip_extent - p.first;
  index_t const reads = round_up(p.width, lanes);
  int whole = readable < reads ? 0 : int(std::min<index_t>((readable - reads) / p.width + 1, p.strips));
  constexpr int step = gemm_tile::row_step;
  T const* const from = operand.at(p.first, p.k0);
  if (p.width == gemm_tile::cols) pack_whole_strips<gemm_tile::cols>(p, whole, from, operand.k_stride);
  else if (p.width == 3 * step) pack_whole_strips<3 * step>(p, whole, from, operand.k_stride);
  else whole = 0;
  for (int strip = whole; strip < p.strips; ++strip)
    for (index_t k = 0; k < p.k1 - p.k0; ++k)
      for (int s = 0; s < p.width; s += lanes) {
        index_t const left = readable - strip * p.width - s;
        simd::store(p.to + strip * p.strip_values + k * p.width + s,
                    left > 0 ? simd::load(from + k * operand.k_stride + strip * p.width + s,
                                          int(std::min<index_t>(left, lanes)))
                             : simd::zeros());
      }
}

/// The memory that packing indices [first, last) and k in [k0, k1) will read.
template <class T>
gemm_prefetch prefetch_of(gemm_operand<T> const& operand, index_t first, index_t last, index_t k0, index_t k1) {
  bool const along_k = operand.k_stride == 1;
  index_t const runs = along_k ? last - first : k1 - k0,
                run_bytes = (along_k ? k1 - k0 : last - first) * index_t(sizeof(T));
  index_t const run_stride = (along_k ? operand.strip_stride : operand.k_stride) * index_t(sizeof(T));
  index_t const steps = ceil_div(run_bytes, index_t(cache_line_bytes));
  return {reinterpret_cast<char const*>(operand.at(first, k0)),
          index_t(cache_line_bytes),
          run_stride - steps * index_t(cache_line_bytes),
          steps,
          steps,
          runs * steps};
}

/// A whole column panel whose k runs fastest in memory and that is used once: turned a few k ahead of the kernel.
template <class T>
class gemm_turned_columns {
 public:
  static constexpr int half = lanes, space_values = 2 * half * gemm_tile::cols;
  /// `space` holds two halves, [k][gemm_tile::cols]: what is read was written some time ago.
  gemm_turned_columns(gemm_operand<T> const& operand, index_t first_col, index_t k0, index_t k1, float* space_for_two)
      : source(operand), col(first_col), k(k0), end(k1), space(space_for_two) {
    refill();
    refill();
  }
  template <int V>
  TENON_ALWAYS_INLINE simd::f32x16 take() const {
    return simd::load(space + at * gemm_tile::cols + V * lanes);
  }
  TENON_ALWAYS_INLINE void advance() {
    if (++at % half == 0) {
      refill();
      at %= 2 * half;
    }
  }

 private:
  TENON_NOINLINE void refill() {
    index_t const next = std::min(k + half, end);
    if (k < next)
      pack_along_k(gemm_strips{space + to * half * gemm_tile::cols, 0, 1, gemm_tile::cols, col, k, next}, source);
    bool const same = k + fetch_ahead < end;  // or the panel that comes next
    T const* const fetch =
        source.at(same ? col : col + gemm_tile::cols, same ? k + fetch_ahead : k + fetch_ahead - end);
    for (index_t i = 0; i < gemm_tile::cols; ++i) __builtin_prefetch(fetch + i * source.strip_stride);
    k = next;
    to = 1 - to;
  }
  static constexpr index_t fetch_ahead = 4 * lanes;
  gemm_operand<T> source;
  index_t col, k, end;
  float* space;
  int at = 0, to = 0;
};

template <class T>
void pack_strips(gemm_strips const& p, gemm_operand<T> const& operand, gemm_k_map const& map) {
  map.for_runs(p.k0, p.k1, [&](index_t k, index_t at, index_t n) {
    gemm_strips const run{p.to + (k - p.k0) * p.width, p.strip_values, p.strips, p.width, p.first, at, at + n};
    if (operand.k_stride == 1) pack_along_k(run, operand);
    else pack_across_k(run, operand);
  });
}

}  // namespace tenon::ops::detail
