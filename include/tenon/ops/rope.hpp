// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Rotary position embedding.
#include <span>

#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// Which features form a pair: (0,1), (2,3), ... or (i, i + rotary_width/2), as GPT-NeoX and Llama files have it.
enum class rope_pairing { interleaved, half };

/// Turns pair i of each head by position x base^(-2i / rotary_width), divided by the pair's factor where there are any,
/// in place; the rest of the head is left alone.
/// Angles are computed and reduced in double by fixed operations, then rounded, so long contexts lose nothing.
/// @shape x [t, heads * width], any row stride  positions [t]
template <class T>
struct rope_args {
  matrix_view<T> x;
  int heads = 0;
  int width = 0;         ///< features of a head
  int rotary_width = 0;  ///< even, at most `width`
  std::span<index_t const> positions;
  float base = 10000;
  std::span<float const> factors{};  ///< one per pair, or none
  rope_pairing pairing = rope_pairing::half;
  bool inverse = false;  ///< turn back: the gradient
};

/// @error argument_error when shapes differ, rotary_width is odd or there are not as many factors as pairs
/// @source Su et al. 2021, arXiv:2104.09864   @test tests/ops/rope_test.cpp
inline constexpr struct rope_t : operation<rope_t> {
  static constexpr char const* name = "rope";
  template <class T>
  static profile::work work(rope_args<T> const& a) {
    double const n = double(a.x.extent(0)) * a.heads * a.rotary_width;
    return {3 * n, 2 * n * sizeof(T)};
  }
} rope{};

}  // namespace tenon::ops
