// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file All knowledge about compilers lives here: the only `#if` on a compiler or a flag in the library.

#if defined(__FAST_MATH__)
#  error \
      "tenon: -ffast-math lets the compiler reorder sums, which breaks arithmetic::bitwise. Fix: drop -ffast-math for code that includes tenon."
#endif
#if defined(__NVCC__)
#  define TENON_NVCC() 1
#else
#  define TENON_NVCC() 0
#endif
#if defined(__clang__)
#  define TENON_CLANG() 1
#else
#  define TENON_CLANG() 0
#endif

// Instruction set of the host kernels. TENON_SCALAR forces portable code (used to prove contract I).
#if defined(TENON_SCALAR)
#  define TENON_SIMD_AVX512() 0
#  define TENON_SIMD_AVX2() 0
#  define TENON_SIMD_NEON() 0
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && !TENON_NVCC()
#  define TENON_SIMD_AVX512() 1
#  define TENON_SIMD_AVX2() 0
#  define TENON_SIMD_NEON() 0
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !TENON_NVCC()
#  define TENON_SIMD_AVX512() 0
#  define TENON_SIMD_AVX2() 1
#  define TENON_SIMD_NEON() 0
#elif defined(__ARM_NEON) && defined(__aarch64__) && !TENON_NVCC()
#  define TENON_SIMD_AVX512() 0
#  define TENON_SIMD_AVX2() 0
#  define TENON_SIMD_NEON() 1
#else
#  define TENON_SIMD_AVX512() 0
#  define TENON_SIMD_AVX2() 0
#  define TENON_SIMD_NEON() 0
#endif

// Products of four bytes at a time that are added to 32 bits.
#if TENON_SIMD_AVX512() && defined(__AVX512VNNI__) || TENON_SIMD_AVX2() && defined(__AVXVNNI__)
#  define TENON_SIMD_VNNI() 1
#else
#  define TENON_SIMD_VNNI() 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#  define TENON_ALWAYS_INLINE [[gnu::always_inline]] inline
#  define TENON_NOINLINE [[gnu::noinline]]
#  define TENON_RESTRICT __restrict__
/// After a lambda's parameter list.
#  define TENON_INLINE_LAMBDA __attribute__((always_inline))
#else
#  define TENON_ALWAYS_INLINE inline
#  define TENON_NOINLINE
#  define TENON_RESTRICT
#  define TENON_INLINE_LAMBDA
#endif

namespace tenon {
/// Bytes of a cache line; also the alignment of every buffer that tenon allocates.
inline constexpr int cache_line_bytes = 64;
}  // namespace tenon
