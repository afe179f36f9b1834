// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A hash of values by their bits that parts of any cut can be added up to: what receipts of a step are made of.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <tenon/core/config.hpp>
#include <tenon/core/view.hpp>

namespace tenon {

namespace detail {
/// @source Steele, Lea and Flood 2014: the last part of SplitMix64
constexpr std::uint64_t mixed_bits(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
inline constexpr index_t bit_sum_block = 256;
inline constexpr auto bit_sum_keys = [] {
  std::array<std::uint64_t, bit_sum_block> keys{};
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = mixed_bits(i) | 1;
  return keys;
}();

template <class Word>
std::uint64_t bit_sum_of(std::byte const* data, index_t n, index_t first) {
  std::uint64_t sum = 0;
  while (n > 0) {
    index_t const at = first % bit_sum_block, count = std::min(n, bit_sum_block - at);
    std::uint64_t const* const keys = bit_sum_keys.data() + at;
    // Nearly twice as fast from memory; within a core's cache it costs nothing.
    constexpr index_t ahead = 4 * bit_sum_block;
    if (n >= ahead + bit_sum_block)
      for (index_t i = 0; i < bit_sum_block; i += index_t(cache_line_bytes / sizeof(Word)))
        __builtin_prefetch(data + std::size_t(ahead + i) * sizeof(Word));
    std::uint64_t part = 0;
    for (index_t i = 0; i < count; ++i) {
      Word word;
      std::memcpy(&word, data + std::size_t(i) * sizeof(Word), sizeof(Word));
      part += word * keys[i];
    }
    sum += part * (mixed_bits(~std::uint64_t(first / bit_sum_block)) | 1);
    data += std::size_t(count) * sizeof(Word);
    first += count, n -= count;
  }
  return sum;
}
}  // namespace detail

/// The sum, modulo 2^64, of the bits of each value times an odd number of 64 random bits that belongs to its place: of
/// values [first, first + n) of a sequence. Sums of parts add up to that of the whole. One flipped bit always changes it,
/// and any other change but for one in 2^32 or fewer.
/// @param bytes of a value: 2 or 4   @test tests/core/bit_sum_test.cpp
inline std::uint64_t bit_sum(void const* values, std::size_t bytes, index_t n, index_t first = 0) {
  auto const* const data = static_cast<std::byte const*>(values);
  return bytes == 2 ? detail::bit_sum_of<std::uint16_t>(data, n, first)
                    : detail::bit_sum_of<std::uint32_t>(data, n, first);
}

}  // namespace tenon
