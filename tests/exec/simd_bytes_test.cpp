// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Every operation on bytes against the same operation on one byte.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include <tenon/exec/host/simd_bytes.hpp>

using namespace tenon;
namespace sd = tenon::simd;

namespace {

struct sixteen {
  std::int32_t v[16];
  explicit sixteen(sd::i32x16 a) { sd::store_int(v, a); }
  int byte(int lane, int j) const { return int(std::uint32_t(v[lane]) >> (8 * j) & 0xff); }
};
std::vector<std::byte> random_bytes(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> v(n);
  for (auto& b : v) b = std::byte(random() & 0xff);
  return v;
}
sd::i32x16 random_lanes(unsigned seed) { return sd::load_strided(random_bytes(64, seed).data(), 4); }

template <int J>
void check_repeat_byte(sd::i32x16 a) {
  sixteen const before(a), after(sd::repeat_byte<J>(a));
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j) CHECK(after.byte(i, j) == before.byte(i, J));
}
template <bool Wide>
void check_products(sd::i32x16 a, sd::i32x16 b) {
  sixteen const x(a), y(b), sum(sd::add_products<Wide>(sd::broadcast_int(-77), a, b));
  for (int i = 0; i < 16; ++i) {
    int wanted = -77;
    for (int j = 0; j < 4; ++j) wanted += x.byte(i, j) * std::int8_t(y.byte(i, j));
    CHECK(sum.v[i] == wanted);
  }
}

}  // namespace

TEST_CASE("simd bytes: rows become lanes, at any stride, read to their last byte only") {
  for (index_t stride : {index_t(16), index_t(17), index_t(34), index_t(0)}) {
    auto const bytes = random_bytes(std::size_t(15 * stride + 16), 1);
    auto const turned = sd::load_turned(bytes.data(), stride);
    for (int i = 0; i < 4; ++i) {
      sixteen const t(turned[std::size_t(i)]), s(sd::load_strided(bytes.data() + 4 * i, stride));
      for (int r = 0; r < 16; ++r)
        for (int j = 0; j < 4; ++j) {
          CHECK(t.byte(r, j) == int(bytes[std::size_t(r * stride + 4 * i + j)]));
          CHECK(s.v[r] == t.v[r]);
        }
    }
  }
}

TEST_CASE("simd bytes: products are exact at the ends of their range") {
  for (int b : {-127, -1, 0, 127}) {
    for (int a : {0, 1, 127}) check_products<false>(sd::broadcast_bytes(a), sd::broadcast_bytes(b));
    for (int a : {0, 128, 255}) check_products<true>(sd::broadcast_bytes(a), sd::broadcast_bytes(b));
  }
  for (unsigned seed = 0; seed < 20; ++seed) {
    auto const a = random_lanes(seed), b = random_lanes(100 + seed) | sd::broadcast_bytes(1);  // never -128
    check_products<true>(a, b);
    check_products<false>(a & sd::broadcast_bytes(0x7f), b);
  }
}

TEST_CASE("simd bytes: bits, tables, narrow stores, halves") {
  auto const a = random_lanes(1), bits = random_lanes(2);
  check_repeat_byte<0>(a), check_repeat_byte<1>(a), check_repeat_byte<2>(a), check_repeat_byte<3>(a);
  auto const bit = sd::broadcast_int(std::int32_t(0x80402001u));
  sixteen const set(bits), one(bit), added(sd::add_where(a, bits, bit, 16));
  std::array<std::uint8_t, 16> table{};
  for (std::size_t i = 0; i < 16; ++i) table[i] = std::uint8_t(255 - 13 * i);
  sixteen const before(a), found(sd::look_up(table, a & sd::broadcast_bytes(15)));
  std::int8_t low[16];
  sd::store_low_bytes(low, a);
  float halves[16];
  sd::store(halves, sd::from_halves(a & sd::broadcast_int(0x7bff)));
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j)
      CHECK(added.byte(i, j) == ((before.byte(i, j) + (set.byte(i, j) & one.byte(i, j) ? 16 : 0)) & 0xff));
    for (int j = 0; j < 4; ++j) CHECK(found.byte(i, j) == table[std::size_t(before.byte(i, j) & 15)]);
    CHECK(low[i] == std::int8_t(before.byte(i, 0)));
    CHECK(halves[i] == float(fp16::from_bits(std::uint16_t(before.v[i] & 0x7bff))));
  }
}
