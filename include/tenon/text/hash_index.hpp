// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A hash table over strings that lie elsewhere.   @test tests/text/hash_index_test.cpp
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

#include <tenon/core/arena.hpp>

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

/// Numbers 0 to n - 1 by a hash, chained by bucket: a link is the number + 1 and, above it, bits of the hash, so that few
/// strings are compared in vain. Built without a branch that depends on the keys. Of equal keys the last is found.
class hash_index {
 public:
  hash_index() = default;
  /// @param hash_of  hash_of(i) is the hash of key i
  template <class HashOf>
  hash_index(std::size_t n, HashOf&& hash_of)
      : buckets(std::bit_floor(n + 1)), number_bits(int(std::bit_width(n))), memory((buckets + n) * sizeof(link)) {
    link *const heads = links(), *const nexts = heads + buckets;
    // Two loops, so that neither waits for the other: hashing takes time in branches, chaining in memory.
    for (std::size_t i = 0; i < n; ++i) nexts[i] = link(hash_of(i));
    for (std::size_t i = 0; i < n; ++i)
      nexts[i] = std::exchange(heads[nexts[i] & (buckets - 1)], tag(nexts[i]) | link(i + 1));
  }
  /// The number with this hash for which `is_it(number)`; -1 when there is none.
  template <class IsIt>
  std::int32_t find(std::uint64_t h, IsIt&& is_it) const {
    if (buckets == 0) return -1;
    for (link at = links()[h & (buckets - 1)]; at != 0;) {
      std::uint32_t const number = at - tag(at) - 1;
      if (tag(at) == tag(link(h)) && is_it(number)) return std::int32_t(number);
      at = links()[buckets + number];
    }
    return -1;
  }

 private:
  using link = std::uint32_t;
  link tag(link l) const { return l >> number_bits << number_bits; }
  link* links() const { return reinterpret_cast<link*>(memory.data()); }
  std::size_t buckets = 0;
  int number_bits = 1;
  memory_block memory;  // of the first link of each bucket, and the one after each number's; not a vector: huge pages
};

}  // namespace tenon::text::detail
