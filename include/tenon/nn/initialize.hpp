// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <span>

#include <tenon/core/philox.hpp>
#include <tenon/exec/host/math.hpp>
#include <tenon/nn/parameter.hpp>

namespace tenon::nn {

namespace detail {

/// Columns [first, first + out.size()) of a row. Sixteen columns are drawn at a time: counters 2 * col .. 2 * col + 31 of
/// the row, two words a value.
inline void initialize_row(random_stream const& stream, initializer const& init, index_t row, index_t first,
                           std::span<float> out) {
  if (init.stddev == 0) return std::fill(out.begin(), out.end(), init.mean);
  index_t const end = first + index_t(out.size());
  for (index_t col = first / lanes * lanes; col < end; col += lanes) {
    float u[lanes], v[lanes], normal[lanes];
    for (int i = 0; i < lanes; i += 2) {
      auto const w = stream.quad(std::uint64_t(row), std::uint64_t(2 * col + 2 * i) / 4);
      for (std::size_t j = 0; j < 2; ++j) {
        u[std::size_t(i) + j] = (float(w[2 * j] >> 8) + 1.0f) * 0x1p-24f;  // (0, 1]
        v[std::size_t(i) + j] = float(w[2 * j + 1] >> 8) * 0x1p-24f;       // [0, 1)
      }
    }
    auto const radius = simd::sqrt(simd::broadcast(-2.0f) * simd::log(simd::load(u)));
    auto const angle = simd::broadcast(6.28318530718f) * simd::load(v);
    simd::store(normal, simd::fma(radius * simd::cos(angle), simd::broadcast(init.stddev), simd::broadcast(init.mean)));
    for (index_t c = std::max(col, first); c < std::min(col + lanes, end); ++c)
      out[std::size_t(c - first)] = normal[c - col];
  }
}

}  // namespace detail

/// Draws every parameter: normal values by Box and Muller from the Philox stream of the parameter's name, so a value
/// depends on (seed, name, row, column) alone.   @test tests/nn/initialize_test.cpp
inline void initialize(std::span<parameter_spec const> specs, float* parameters, std::uint64_t seed) {
  for (auto const& spec : specs) {
    random_stream const stream(seed, spec.name);
    index_t const whole_cols = spec.whole().cols;
    spec.for_each_run([&](index_t here, index_t there, index_t n) {
      for (index_t done = 0; done < n;) {  // row by row of the whole
        index_t const row = (there + done) / whole_cols, col = (there + done) % whole_cols;
        index_t const count = std::min(n - done, whole_cols - col);
        detail::initialize_row(stream, spec.init, row, col,
                               {parameters + spec.offset + here + done, std::size_t(count)});
        done += count;
      }
    });
  }
}

}  // namespace tenon::nn
