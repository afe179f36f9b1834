// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <span>

#include <tenon/core/philox.hpp>
#include <tenon/exec/host/math.hpp>
#include <tenon/nn/parameter.hpp>

namespace tenon::nn {

/// Draws every parameter: normal values by Box and Muller from the Philox stream of the parameter's name, so a value
/// depends on (seed, name, row, column) alone.   @test tests/nn/initialize_test.cpp
inline void initialize(std::span<parameter_spec const> specs, float* parameters, std::uint64_t seed) {
  for (auto const& spec : specs) {
    random_stream const stream(seed, spec.name);
    for (index_t row = 0; row < spec.rows; ++row) {
      float* const p = parameters + spec.offset + row * spec.cols;
      for (index_t col = 0; col < spec.cols; col += lanes) {
        float u[lanes], v[lanes], normal[lanes];
        for (int i = 0; i < lanes; i += 2) {  // two words a value: counters 2 * col .. 2 * col + 31 of this row
          auto const w = stream.quad(std::uint64_t(row), std::uint64_t(2 * col + 2 * i) / 4);
          for (std::size_t j = 0; j < 2; ++j) {
            u[std::size_t(i) + j] = (float(w[2 * j] >> 8) + 1.0f) * 0x1p-24f;  // (0, 1]
            v[std::size_t(i) + j] = float(w[2 * j + 1] >> 8) * 0x1p-24f;       // [0, 1)
          }
        }
        auto const radius = simd::sqrt(simd::broadcast(-2.0f) * simd::log(simd::load(u)));
        auto const angle = simd::broadcast(6.28318530718f) * simd::load(v);
        simd::store(normal, simd::fma(radius * simd::cos(angle), simd::broadcast(spec.init.stddev),
                                      simd::broadcast(spec.init.mean)));
        for (index_t i = 0; i < lanes && col + i < spec.cols; ++i)
          p[col + i] = spec.init.stddev == 0 ? spec.init.mean : normal[i];
      }
    }
  }
}

}  // namespace tenon::nn
