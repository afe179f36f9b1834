// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Every lane operation against the same operation on one float, bit by bit, over awkward operands.
#include <doctest/doctest.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <tenon/exec/host/simd.hpp>

using namespace tenon;
namespace sd = tenon::simd;
using sd::f32x16;
using sd::i32x16;

namespace {

std::uint32_t bits_of(float x) {
  std::uint32_t const b = std::bit_cast<std::uint32_t>(x);
  return (b & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : b;  // which NaN an operation gives is not promised
}
/// Operands that cover signs, zeros, subnormals, ties, infinities, NaN; then random bits.
std::vector<float> operands() {
  std::vector<float> v{0.0f,       -0.0f, 1.0f,      -1.0f,      0.5f,       -0.5f,           1.5f,
                       2.5f,       -2.5f, 0x1p-126f, 0x1p-149f,  -0x1p-149f, 0x1.fffffep127f, HUGE_VALF,
                       -HUGE_VALF, NAN,   1e-40f,    3.1415927f, 8388607.5f, 16777216.0f};
  std::mt19937 random(1);
  while (v.size() < 160) v.push_back(std::bit_cast<float>(std::uint32_t(random())));
  while (v.size() < 320) v.push_back(std::ldexp(float(int(random() % 2000) - 1000), int(random() % 12) - 6));
  return v;
}

struct sixteen {
  float v[16];
};
sixteen array(f32x16 a) {
  sixteen s;
  sd::store(s.v, a);
  return s;
}
struct sixteen_int {
  std::int32_t v[16];
};
sixteen_int array(i32x16 a) { return std::bit_cast<sixteen_int>(a); }

template <class Lanes, class One>
void check_unary(Lanes lanes_function, One one) {
  auto const x = operands();
  int wrong = 0;
  for (std::size_t i = 0; i + 16 <= x.size(); i += 16) {
    auto const got = array(lanes_function(sd::load(&x[i])));
    for (std::size_t k = 0; k < 16; ++k) wrong += bits_of(got.v[k]) != bits_of(one(x[i + k]));
  }
  CHECK(wrong == 0);
}
template <class Lanes, class One>
void check_binary(Lanes lanes_function, One one) {
  auto const x = operands();
  int wrong = 0;
  for (std::size_t i = 0; i + 16 <= x.size(); i += 16)
    for (float b : x) {
      auto const got = array(lanes_function(sd::load(&x[i]), sd::broadcast(b)));
      auto const swapped = array(lanes_function(sd::broadcast(b), sd::load(&x[i])));
      for (std::size_t k = 0; k < 16; ++k) {
        wrong += bits_of(got.v[k]) != bits_of(one(x[i + k], b));
        wrong += bits_of(swapped.v[k]) != bits_of(one(b, x[i + k]));
      }
    }
  CHECK(wrong == 0);
}
template <class Lanes, class One>
void check_integer(Lanes lanes_function, One one) {
  std::mt19937 random(2);
  std::int32_t a[16], b[16];
  for (int trial = 0; trial < 50; ++trial) {
    for (int i = 0; i < 16; ++i) a[i] = std::int32_t(random()), b[i] = std::int32_t(random());
    auto const got = array(lanes_function(sd::load_int(a), sd::load_int(b)));
    for (int i = 0; i < 16; ++i) CHECK(got.v[i] == std::int32_t(one(std::uint32_t(a[i]), std::uint32_t(b[i]))));
  }
}

}  // namespace

TEST_CASE("simd: arithmetic is one IEEE operation per lane") {
  check_binary([](f32x16 a, f32x16 b) { return a + b; }, [](float a, float b) { return a + b; });
  check_binary([](f32x16 a, f32x16 b) { return a - b; }, [](float a, float b) { return a - b; });
  check_binary([](f32x16 a, f32x16 b) { return a * b; }, [](float a, float b) { return a * b; });
  check_binary([](f32x16 a, f32x16 b) { return a / b; }, [](float a, float b) { return a / b; });
  check_binary([](f32x16 a, f32x16 b) { return sd::fma(a, b, a); }, [](float a, float b) { return std::fma(a, b, a); });
  check_binary([](f32x16 a, f32x16 b) { return sd::fma(a, b, sd::broadcast(-0.1f)); },
               [](float a, float b) { return std::fma(a, b, -0.1f); });
  check_unary([](f32x16 a) { return sd::sqrt(a); }, [](float a) { return std::sqrt(a); });
  check_unary([](f32x16 a) { return sd::round(a); }, [](float a) { return std::nearbyint(a); });
}

TEST_CASE("simd: maximum, minimum, comparisons and selection, with NaN and signed zeros as documented") {
  check_binary([](f32x16 a, f32x16 b) { return sd::max(a, b); }, [](float a, float b) { return a < b ? b : a; });
  check_binary([](f32x16 a, f32x16 b) { return sd::min(a, b); }, [](float a, float b) { return b < a ? b : a; });
  f32x16 const yes = sd::broadcast(1.0f), no = sd::broadcast(2.0f);
  check_binary([&](f32x16 a, f32x16 b) { return sd::select(a < b, yes, no); },
               [](float a, float b) { return a < b ? 1.0f : 2.0f; });
  check_binary([&](f32x16 a, f32x16 b) { return sd::select(a <= b, yes, no); },
               [](float a, float b) { return a <= b ? 1.0f : 2.0f; });
  check_unary([&](f32x16 a) { return sd::select(sd::is_nan(a), yes, no); },
              [](float a) { return std::isnan(a) ? 1.0f : 2.0f; });
  check_unary([](f32x16 a) { return sd::negate(a); }, [](float a) { return -a; });
  check_unary([](f32x16 a) { return sd::abs(a); }, [](float a) { return std::fabs(a); });
  check_binary([](f32x16 a, f32x16 b) { return sd::with_sign_of(sd::abs(a), b); },
               [](float a, float b) { return std::copysign(a, b); });
}

TEST_CASE("simd: integer lanes wrap, shift and convert") {
  using u = std::uint32_t;
  check_integer([](i32x16 a, i32x16 b) { return a + b; }, [](u a, u b) { return a + b; });
  check_integer([](i32x16 a, i32x16 b) { return a - b; }, [](u a, u b) { return a - b; });
  check_integer([](i32x16 a, i32x16 b) { return a & b; }, [](u a, u b) { return a & b; });
  check_integer([](i32x16 a, i32x16 b) { return a | b; }, [](u a, u b) { return a | b; });
  check_integer([](i32x16 a, i32x16 b) { return a ^ b; }, [](u a, u b) { return a ^ b; });
  check_integer([](i32x16 a, i32x16) { return sd::shift_left<7>(a); }, [](u a, u) { return a << 7; });
  check_integer([](i32x16 a, i32x16) { return sd::shift_right<7>(a); }, [](u a, u) { return a >> 7; });
  check_integer([](i32x16 a, i32x16 b) { return sd::select(sd::first_lanes(16), a, b); }, [](u a, u) { return a; });
  check_integer([](i32x16 a, i32x16 b) { return sd::select(sd::first_lanes(0), a, b); }, [](u, u b) { return b; });
  float const x[16] = {0, -0.5f, 0.5f, 1.5f, 2.5f, -1.5f, 1e6f, -1e6f, 2147483520.0f, -2147483648.0f, 3.49f, -3.51f};
  auto const n = array(sd::to_int(sd::load(x)));
  auto const back = array(sd::to_float(sd::to_int(sd::load(x))));
  for (int i = 0; i < 16; ++i) {
    CHECK(n.v[i] == std::int32_t(std::nearbyint(x[i])));
    CHECK(back.v[i] == std::nearbyint(x[i]) + 0.0f);
  }
  CHECK(array(sd::to_float(sd::broadcast_int(16777217))).v[5] == 16777216.0f);
  std::uint16_t low[16];
  std::int32_t wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = i * 0x12345 - 7;
  sd::store_low_halves(low, sd::load_int(wide));
  for (int i = 0; i < 16; ++i) CHECK(low[i] == std::uint16_t(wide[i]));
}

TEST_CASE("simd: the first n lanes") {
  for (int n = 0; n <= 17; ++n) {
    auto const got = array(sd::select(sd::first_lanes(n), sd::broadcast(1.0f), sd::zeros()));
    for (int i = 0; i < 16; ++i) CHECK(got.v[i] == (i < n ? 1.0f : 0.0f));
  }
}

TEST_CASE("simd: the tree of lanes adds those 8 apart first, then 4, 2, 1") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 100; ++trial) {
    float x[16];
    for (float& v : x) v = normal(random) * std::ldexp(1.0f, int(random() % 16));
    float s[8];
    for (int i = 0; i < 8; ++i) s[i] = x[i] + x[i + 8];
    float const want = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    CHECK(sd::reduce_add(sd::load(x)) == want);
    float largest = x[0];
    for (float v : x) largest = std::max(largest, v);
    CHECK(sd::reduce_max(sd::load(x)) == largest);
  }
}

TEST_CASE("simd: loads and stores need no alignment") {
  float buffer[40];
  for (int i = 0; i < 40; ++i) buffer[i] = float(i);
  for (int offset = 0; offset < 20; ++offset) {
    float out[40];
    for (float& o : out) o = -1.0f;
    sd::store(out + offset, sd::load(buffer + offset));
    for (int i = 0; i < 40; ++i) CHECK(out[i] == (i >= offset && i < offset + 16 ? float(i) : -1.0f));
  }
  sd::prefetch(buffer);
}
