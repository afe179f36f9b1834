// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <tenon/core/config.hpp>

#if defined(__x86_64__) && !defined(TENON_SCALAR) && !TENON_NVCC()
#  define TENON_SHA_INSTRUCTIONS() 1
#  include <cpuid.h>
#  include <immintrin.h>
#else
#  define TENON_SHA_INSTRUCTIONS() 0
#endif

namespace tenon::io {
namespace detail {

inline constexpr std::array<std::uint32_t, 64> sha256_constants{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/// Absorbs `count` blocks of 64 bytes, in portable code.
inline void sha256_blocks(std::uint32_t (&state)[8], std::uint8_t const* p, std::size_t count) {
  for (; count; --count, p += 64) {
    std::uint32_t w[64];
    for (int i = 0; i < 16; ++i)
      w[i] = std::uint32_t(p[4 * i]) << 24 | std::uint32_t(p[4 * i + 1]) << 16 | std::uint32_t(p[4 * i + 2]) << 8 |
             p[4 * i + 3];
    for (int i = 16; i < 64; ++i) {
      std::uint32_t const a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3)) + w[i - 7] +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      std::uint32_t const t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) +
                               sha256_constants[std::size_t(i)] + w[i];
      std::uint32_t const t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    std::uint32_t const next[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += next[i];
  }
}

#if TENON_SHA_INSTRUCTIONS()
inline bool has_sha_instructions() {
  static bool const found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c & (1u << 19))) return false;  // SSE 4.1
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & (1u << 29)) != 0;     // SHA
  }();
  return found;
}
/// Where a message's state is, and its next block.
struct sha256_message {
  std::uint32_t* state;
  std::uint8_t const* from;
};
/// A message on its way through the processor's SHA instructions: state in two registers as ABEF and CDGH.
struct sha256_stream {
  sha256_message message;
  __m128i abef, cdgh, abef_before, cdgh_before, w[4];  // w: the last sixteen words of the message schedule

  __attribute__((target("sha,sse4.1"), always_inline)) explicit sha256_stream(sha256_message m) : message(m) {
    auto const* const at = reinterpret_cast<__m128i const*>(m.state);
    __m128i const cdab = _mm_shuffle_epi32(_mm_loadu_si128(at), 0xb1);
    __m128i const efgh = _mm_shuffle_epi32(_mm_loadu_si128(at + 1), 0x1b);
    abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  }
  __attribute__((target("sha,sse4.1"), always_inline)) void begin_block() {
    __m128i const byte_order = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    abef_before = abef, cdgh_before = cdgh;
    for (auto& words : w) {
      words = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<__m128i const*>(message.from)), byte_order);
      message.from += 16;
    }
  }
  /// Rounds 4 i to 4 i + 3.
  __attribute__((target("sha,sse4.1"), always_inline)) void four_rounds(int i) {
    __m128i const now = w[i & 3];
    __m128i const sum =
        _mm_add_epi32(now, _mm_loadu_si128(reinterpret_cast<__m128i const*>(sha256_constants.data() + 4 * i)));
    cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
    abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
    if (i >= 12) return;
    // Words 16 + 4 i ... from those 16, 15, 7 and 2 before.
    __m128i const last = w[(i + 3) & 3], seven_before = _mm_alignr_epi8(last, w[(i + 2) & 3], 4);
    w[i & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(now, w[(i + 1) & 3]), seven_before), last);
  }
  __attribute__((target("sha,sse4.1"), always_inline)) void end_block() {
    abef = _mm_add_epi32(abef, abef_before), cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  __attribute__((target("sha,sse4.1"), always_inline)) void store() const {
    auto* const at = reinterpret_cast<__m128i*>(message.state);
    __m128i const feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128(at, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(at + 1, _mm_alignr_epi8(dchg, feba, 8));
  }
};
/// Side by side, not one behind the other: each round waits for the one before, and two streams fill each other's gaps.
template <class... Streams>
__attribute__((target("sha,sse4.1"), always_inline)) inline void sha256_absorb(std::size_t count, Streams... stream) {
  for (; count; --count) {
    (stream.begin_block(), ...);
#  pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) (stream.four_rounds(i), ...);
    (stream.end_block(), ...);
  }
  (stream.store(), ...);
}
/// Absorbs `count` blocks of each of some messages. Never inlined, lest the caller's registers get among its own.
template <class... Messages>
__attribute__((target("sha,sse4.1"), noinline)) void sha256_blocks_by_instructions(std::size_t count,
                                                                                   Messages... messages) {
#  if defined(__AVX__)
  // These instructions have no AVX form: where upper halves of registers are in use they take 150 times as long.
  _mm256_zeroupper();
#  endif
  sha256_absorb(count, sha256_stream(messages)...);
}
#endif

}  // namespace detail

/// SHA-256 of a stream of bytes; `update` as often as wanted, then `finish` once.
/// @source FIPS 180-4   @test tests/io/sha256_test.cpp
class sha256 {
 public:
  using digest = std::array<std::uint8_t, 32>;

  void update(void const* data, std::size_t bytes) {
    auto const* p = static_cast<std::uint8_t const*>(data);
    total += bytes;
    if (filled) {
      std::size_t const n = bytes < 64 - filled ? bytes : 64 - filled;
      if (n) std::memcpy(rest + filled, p, n);
      filled += n, p += n, bytes -= n;
      if (filled < 64) return;
      blocks(rest, 1);
      filled = 0;
    }
    blocks(p, bytes / 64);
    filled = bytes % 64;
    if (filled) std::memcpy(rest, p + bytes - filled, filled);
  }
  template <class T>
  void update(std::span<T const> values) {
    update(values.data(), values.size_bytes());
  }
  digest finish() {
    std::uint64_t const bits = total * 8;
    std::uint8_t pad[72] = {0x80};
    std::size_t const zeros = (filled < 56 ? 56 : 120) - filled;
    for (int i = 0; i < 8; ++i) pad[zeros + std::size_t(i)] = std::uint8_t(bits >> (56 - 8 * i));
    update(pad, zeros + 8);
    digest d;
    for (std::size_t i = 0; i < 32; ++i) d[i] = std::uint8_t(state[i / 4] >> (24 - 8 * (i % 4)));
    return d;
  }
  /// `finish` as 64 hexadecimal digits.
  std::string finish_hex() {
    std::string out;
    for (auto const byte : finish()) (out += "0123456789abcdef"[byte >> 4]) += "0123456789abcdef"[byte & 15];
    return out;
  }

 private:
  friend std::vector<std::string> sha256_hex_of_each(std::span<std::span<std::byte const> const> messages);

  /// Two at once: `a` absorbs the first `count` blocks of 64 bytes at p, `b` those at q. Both have had whole blocks only.
  static void update_both(sha256& a, std::byte const* p, sha256& b, std::byte const* q, std::size_t count) {
    a.total += 64 * count, b.total += 64 * count;
    auto const* const from = reinterpret_cast<std::uint8_t const*>(p);
    auto const* const other = reinterpret_cast<std::uint8_t const*>(q);
#if TENON_SHA_INSTRUCTIONS()
    if (detail::has_sha_instructions())
      return detail::sha256_blocks_by_instructions(count, detail::sha256_message{a.state, from},
                                                   detail::sha256_message{b.state, other});
#endif
    detail::sha256_blocks(a.state, from, count);
    detail::sha256_blocks(b.state, other, count);
  }
  void blocks(std::uint8_t const* p, std::size_t count) {
#if TENON_SHA_INSTRUCTIONS()
    if (detail::has_sha_instructions())
      return detail::sha256_blocks_by_instructions(count, detail::sha256_message{state, p});
#endif
    detail::sha256_blocks(state, p, count);
  }
  std::uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::uint8_t rest[64];
  std::size_t filled = 0;
  std::uint64_t total = 0;
};

/// The SHA-256 of some bytes, as 64 hexadecimal digits.
inline std::string sha256_hex(std::span<std::byte const> bytes) {
  sha256 h;
  h.update(bytes);
  return h.finish_hex();
}

/// The same of each of some messages, faster than one after the other: there are always two under way.
inline std::vector<std::string> sha256_hex_of_each(std::span<std::span<std::byte const> const> messages) {
  std::vector<std::string> digests(messages.size());
  std::vector<std::size_t> order(messages.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  // The largest first, so that none is long alone at the end.
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return messages[a].size() != messages[b].size() ? messages[a].size() > messages[b].size() : a < b;
  });
  struct {
    sha256 hash;
    std::span<std::byte const> rest;
    std::string* digest = nullptr;
  } a, b;
  std::size_t begun = 0;
  auto const end_and_begin = [&](auto& lane) {
    if (lane.digest) {
      lane.hash.update(lane.rest);
      *lane.digest = lane.hash.finish_hex();
    }
    lane = {};
    if (begun == order.size()) return;
    lane.rest = messages[order[begun]];
    lane.digest = &digests[order[begun++]];
  };
  end_and_begin(a), end_and_begin(b);
  while (a.digest && b.digest) {
    std::size_t const blocks = std::min(a.rest.size(), b.rest.size()) / 64;
    sha256::update_both(a.hash, a.rest.data(), b.hash, b.rest.data(), blocks);
    for (auto* lane : {&a, &b}) {
      lane->rest = lane->rest.subspan(64 * blocks);
      if (lane->rest.size() < 64) end_and_begin(*lane);
    }
  }
  end_and_begin(a), end_and_begin(b);
  return digests;
}

}  // namespace tenon::io
