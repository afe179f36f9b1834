// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace tenon {

/// Philox 4x32-10: a random number is a function of a key and a counter, so it depends on what it is for and never on
/// who draws it or in which order.
/// @source Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11   @test tests/core/philox_test.cpp
struct philox {
  using counter_type = std::array<std::uint32_t, 4>;
  using key_type = std::array<std::uint32_t, 2>;

  static constexpr counter_type generate(counter_type c, key_type k) {
    for (int round = 0; round < 10; ++round) {
      std::uint64_t const p0 = std::uint64_t(0xD2511F53u) * c[0], p1 = std::uint64_t(0xCD9E8D57u) * c[2];
      c = {std::uint32_t(p1 >> 32) ^ c[1] ^ k[0], std::uint32_t(p1), std::uint32_t(p0 >> 32) ^ c[3] ^ k[1],
           std::uint32_t(p0)};
      k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u};
    }
    return c;
  }
};

/// A named stream of random numbers: (seed, stream name, step, sample, position) -> 32 bits. Two streams with different
/// names never meet.
class random_stream {
 public:
  constexpr random_stream(std::uint64_t seed, std::string_view name, std::uint64_t step = 0)
      : key{std::uint32_t(mix(seed ^ hash(name))), std::uint32_t(mix(seed ^ hash(name)) >> 32)},
        step_low(std::uint32_t(step)) {}
  /// Four random words for positions 4 * quad ... 4 * quad + 3 of sample `sample`.
  constexpr philox::counter_type quad(std::uint64_t sample, std::uint64_t quad_index) const {
    return philox::generate(counter(sample, quad_index), key);
  }
  /// What `quad` gives to philox: for kernels that make many quads at once.
  constexpr philox::counter_type counter(std::uint64_t sample, std::uint64_t quad_index) const {
    return {std::uint32_t(quad_index), std::uint32_t(sample), step_low,
            std::uint32_t(quad_index >> 32) ^ (std::uint32_t(sample >> 32) << 16)};
  }
  constexpr philox::key_type key_words() const { return key; }
  constexpr std::uint32_t word(std::uint64_t sample, std::uint64_t position) const {
    return quad(sample, position / 4)[position % 4];
  }
  /// Uniform in [0, 1), a multiple of 2^-24.
  constexpr float uniform(std::uint64_t sample, std::uint64_t position) const {
    return float(word(sample, position) >> 8) * 0x1p-24f;
  }

 private:
  static constexpr std::uint64_t hash(std::string_view s) {  // FNV-1a
    std::uint64_t h = 0xcbf29ce484222325u;
    for (char c : s) h = (h ^ std::uint8_t(c)) * 0x100000001b3u;
    return h;
  }
  static constexpr std::uint64_t mix(std::uint64_t z) {  // splitmix64
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  philox::key_type key;
  std::uint32_t step_low;
};

}  // namespace tenon
