// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A hash table over strings that lie elsewhere.   @test tests/text/hash_index_test.cpp
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/core/error.hpp>

namespace tenon::text::detail {

/// A hash of few bytes, fast; not for keys that an enemy chooses where the time of one look-up matters.
inline std::uint64_t hash_bytes(char const* p, std::size_t n) {
  constexpr std::uint64_t multiplier = 0x9e3779b97f4a7c15u;
  auto const load = [](char const* at, std::size_t bytes) {
    std::uint64_t word = 0;
    if (bytes == 8) std::memcpy(&word, at, 8);
    else std::memcpy(&word, at, 4);
    return word;
  };
  std::uint64_t h = n * multiplier;
  for (; n > 8; n -= 8, p += 8) h = ((h ^ load(p, 8)) * multiplier) ^ (h >> 29);
  std::uint64_t last = 0;
  if (n == 8) last = load(p, 8);
  else if (n >= 4) last = load(p, 4) | load(p + n - 4, 4) << 32;
  else if (n > 0)
    last = std::uint64_t(std::uint8_t(p[0])) | std::uint64_t(std::uint8_t(p[n / 2])) << 8 |
           std::uint64_t(std::uint8_t(p[n - 1])) << 16;
  h = (h ^ last) * multiplier;
  h ^= h >> 32;
  h *= multiplier;
  return h ^ h >> 29;
}
inline std::uint64_t hash_bytes(std::string_view s) { return hash_bytes(s.data(), s.size()); }

/// Numbers 0 to n - 1 by a hash: one flat array of 32-bit slots, each the number and, above it, bits of the hash, so that
/// few strings are compared in vain. Of equal keys the last is found.
class hash_index {
 public:
  hash_index() = default;
  /// @param hash_of  hash_of(i) is the hash of key i
  template <class HashOf>
  hash_index(std::size_t n, HashOf&& hash_of) {
    std::size_t size = 16;
    while (size < n + n / 2) size *= 2;
    slots.assign(size, 0);
    while ((std::size_t(1) << number_bits) <= n) ++number_bits;
    // Hashes first: the reads of the keys and the writes to the table then do not wait for each other.
    constexpr std::size_t block = 64;
    std::uint64_t hashes[block];
    for (std::size_t end = n; end > 0;) {
      std::size_t const begin = end > block ? end - block : 0;
      for (std::size_t i = begin; i < end; ++i) hashes[i - begin] = hash_of(i);
      for (std::size_t i = end; i-- > begin;) {
        std::uint64_t const h = hashes[i - begin];
        std::size_t at = h & (size - 1);
        for (int probes = 0; slots[at]; at = (at + 1) & (size - 1))
          if (++probes > most_probes)
            throw argument_error("tenon::text: more than " + std::to_string(most_probes) +
                                 " tokens or merges are equal. Fix: the file is damaged, get another one.");
        slots[at] = tag(h) | std::uint32_t(i + 1);
      }
      end = begin;
    }
  }
  /// The number with this hash for which `is_it(number)`; -1 when there is none.
  template <class IsIt>
  std::int32_t find(std::uint64_t h, IsIt&& is_it) const {
    if (slots.empty()) return -1;
    std::uint32_t const wanted = tag(h), low = (std::uint32_t(1) << number_bits) - 1;
    for (std::size_t at = h & (slots.size() - 1); slots[at]; at = (at + 1) & (slots.size() - 1))
      if ((slots[at] & ~low) == wanted && is_it((slots[at] & low) - 1)) return std::int32_t((slots[at] & low) - 1);
    return -1;
  }

 private:
  static constexpr int most_probes = 4096;
  std::uint32_t tag(std::uint64_t h) const { return std::uint32_t(h >> 32) >> number_bits << number_bits; }
  std::vector<std::uint32_t> slots;
  unsigned number_bits = 1;
};

}  // namespace tenon::text::detail
