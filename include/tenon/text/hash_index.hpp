// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A hash table over strings that lie elsewhere.   @test tests/text/hash_index_test.cpp
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace tenon::text::detail {

/// A hash of few bytes, fast, with one branch for what tokens are like: of 13 to 16 bytes it leaves out some. Not for keys
/// that an enemy chooses where the time of one look-up matters.
inline std::uint64_t hash_bytes(char const* p, std::size_t n) {
  constexpr std::uint64_t multiplier = 0x9e3779b97f4a7c15u;
  auto const load = [](char const* at) {
    std::uint32_t word;
    std::memcpy(&word, at, 4);
    return std::uint64_t(word);
  };
  auto const letter = [&](std::size_t i) { return std::uint64_t(std::uint8_t(p[i])); };
  std::uint64_t h = n;
  for (; n > 16; n -= 8, p += 8) h = (h ^ load(p) ^ load(p + 4) << 32) * multiplier ^ h >> 29;
  if (n >= 4) h = (h ^ load(p + n / 2 - 2)) * multiplier ^ load(p) ^ load(p + n - 4) << 32;
  else if (n > 0) h = h * multiplier ^ letter(0) ^ letter(n / 2) << 8 ^ letter(n - 1) << 16;
  h = (h ^ h >> 32) * multiplier;
  return h ^ h >> 31;
}
inline std::uint64_t hash_bytes(std::string_view s) { return hash_bytes(s.data(), s.size()); }

/// Numbers 0 to n - 1 by a hash. They lie sorted by bucket in one array: the number and, above it, bits of the hash, so
/// that few strings are compared in vain. Built without a branch that depends on the keys. Of equal keys the last is
/// found.
class hash_index {
 public:
  hash_index() = default;
  /// @param hash_of  hash_of(i) is the hash of key i
  template <class HashOf>
  hash_index(std::size_t n, HashOf&& hash_of) {
    number_bits = unsigned(std::bit_width(n));
    std::size_t const buckets = std::bit_floor(n / 4 + 1);
    begins.assign(buckets + 1, 0);
    entries.resize(n);
    std::vector<std::uint32_t> hashes(n);
    for (std::size_t i = 0; i < n; ++i) {
      hashes[i] = std::uint32_t(hash_of(i));
      ++begins[hashes[i] & (buckets - 1)];
    }
    std::uint32_t sum = 0;
    for (auto& b : begins) b = sum += b;  // where each bucket ends, and soon where it begins
    for (std::size_t i = n; i-- > 0;) entries[--begins[hashes[i] & (buckets - 1)]] = tag(hashes[i]) | std::uint32_t(i);
  }
  /// The number with this hash for which `is_it(number)`; -1 when there is none.
  template <class IsIt>
  std::int32_t find(std::uint64_t h, IsIt&& is_it) const {
    if (entries.empty()) return -1;
    std::size_t const bucket = h & (begins.size() - 2);
    std::uint32_t const wanted = tag(std::uint32_t(h)), low = (std::uint32_t(1) << number_bits) - 1;
    for (std::uint32_t i = begins[bucket + 1]; i-- > begins[bucket];)
      if ((entries[i] & ~low) == wanted && is_it(entries[i] & low)) return std::int32_t(entries[i] & low);
    return -1;
  }

 private:
  std::uint32_t tag(std::uint32_t h) const { return h >> number_bits << number_bits; }
  std::vector<std::uint32_t> begins, entries;
  unsigned number_bits = 1;
};

}  // namespace tenon::text::detail
