// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Conversions against a nearest-neighbour search in double over the values that a format has.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>
#include <vector>

#include <tenon/core/element.hpp>
#include <tenon/exec/host/simd.hpp>

namespace {

using tenon::bf16;
using tenon::fp16;
using tenon::fp8_e4m3;
using tenon::fp8_e5m2;

struct format {
  int exponent_bits, mantissa_bits;
  bool finite;
  int width() const { return 1 + exponent_bits + mantissa_bits; }
};
template <class T>
format format_of();
template <>
format format_of<bf16>() {
  return {8, 7, false};
}
template <>
format format_of<fp16>() {
  return {5, 10, false};
}
template <>
format format_of<fp8_e4m3>() {
  return {4, 3, true};
}
template <>
format format_of<fp8_e5m2>() {
  return {5, 2, false};
}

/// The value of a bit pattern from the definition of the format, with std::ldexp.
double value_of(format f, std::uint32_t bits) {
  int const bias = (1 << (f.exponent_bits - 1)) - 1, ones = (1 << f.exponent_bits) - 1;
  int const exponent = int(bits >> f.mantissa_bits) & ones;
  int const mantissa = int(bits) & ((1 << f.mantissa_bits) - 1);
  double const sign = (bits >> (f.exponent_bits + f.mantissa_bits)) & 1u ? -1.0 : 1.0;
  if (exponent == ones && f.finite && mantissa == (1 << f.mantissa_bits) - 1) return std::nan("");
  if (exponent == ones && !f.finite) return mantissa ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(double(mantissa), 1 - bias - f.mantissa_bits);
  return sign * std::ldexp(1.0 + std::ldexp(double(mantissa), -f.mantissa_bits), exponent - bias);
}

/// All magnitudes of a format in order, and one more: the first beyond the largest, for rounding up there.
template <class T>
std::vector<double> magnitudes() {
  format const f = format_of<T>();
  std::vector<double> all;
  for (std::uint32_t b = 0; b < 1u << (f.width() - 1); ++b) {
    double const v = value_of(f, b);
    if (std::isfinite(v)) all.push_back(v);
  }
  all.push_back(all.back() + (all.back() - all[all.size() - 2]));
  return all;
}

/// The index in `all` of the nearest value, ties to the even index (which is the even mantissa).
std::size_t nearest(std::vector<double> const& all, double x) {
  if (x >= all.back()) return all.size() - 1;
  auto const above = std::size_t(std::upper_bound(all.begin(), all.end(), x) - all.begin());
  double const down = x - all[above - 1], up = all[above] - x;
  if (down == up) return above % 2 == 0 ? above : above - 1;
  return down < up ? above - 1 : above;
}

template <class T>
void check_rounding(std::vector<double> const& all, float x) {
  T const got(x);
  std::size_t const n = nearest(all, std::fabs(double(x)));
  if (n == all.size() - 1) {
    if (format_of<T>().finite) CHECK(std::isnan(float(got)));
    else CHECK(std::isinf(float(got)));
    return;
  }
  double const want = std::copysign(all[n], double(x));
  if (double(float(got)) != want || std::signbit(float(got)) != std::signbit(x)) {
    CAPTURE(x);
    CHECK(double(float(got)) == want);
    CHECK(std::signbit(float(got)) == std::signbit(x));
  }
}

template <class T>
void check_format() {
  format const f = format_of<T>();
  using storage = decltype(T::bits);
  static_assert(sizeof(T) == sizeof(storage) && std::is_trivially_copyable_v<T>);
  static_assert(std::is_trivially_default_constructible_v<T>);
  static_assert(tenon::Element<T>);

  int wrong = 0;
  for (std::uint32_t b = 0; b < 1u << f.width(); ++b) {
    T const t = T::from_bits(storage(b));
    double const want = value_of(f, b);
    float const got = float(t);
    if (std::isnan(want)) {
      wrong += !std::isnan(got) || !std::isnan(float(T(got))) || t == t;
    } else {
      wrong += double(got) != want || std::signbit(got) != std::signbit(want);
      wrong += T(got).bits != t.bits || !(t == t);
    }
  }
  CHECK(wrong == 0);

  auto const all = magnitudes<T>();
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    // Every value, every midpoint between two, and the floats beside them; of both signs.
    float const v = float(all[i]), middle = float((all[i] + all[i + 1]) / 2);
    for (float x : {v, middle}) {
      for (float y : {x, std::nextafter(x, 0.0f), std::nextafter(x, HUGE_VALF)}) {
        if (!std::isfinite(y)) continue;
        check_rounding<T>(all, y);
        check_rounding<T>(all, -y);
      }
    }
  }
  for (std::uint32_t b = 0; b < 0x7f800000u; b += 20011) check_rounding<T>(all, std::bit_cast<float>(b));
}

}  // namespace

TEST_CASE_TEMPLATE("element: every pattern round-trips, every rounding is to the nearest, ties to even", T, bf16, fp16,
                   fp8_e4m3, fp8_e5m2) {
  check_format<T>();
}

TEST_CASE("element: limits, overflow and NaN") {
  CHECK(float(fp16(65504.0f)) == 65504.0f);
  CHECK(float(fp16(65519.996f)) == 65504.0f);
  CHECK(std::isinf(float(fp16(65520.0f))));
  CHECK(float(fp16(0x1p-24f)) == 0x1p-24f);
  CHECK(float(fp16(0x1p-25f)) == 0.0f);
  CHECK(float(fp16(0x1.8p-25f)) == 0x1p-24f);
  CHECK(float(fp8_e4m3(448.0f)) == 448.0f);
  CHECK(float(fp8_e4m3(464.0f)) == 448.0f);
  CHECK(std::isnan(float(fp8_e4m3(465.0f))));
  CHECK(std::isnan(float(fp8_e4m3(HUGE_VALF))));
  CHECK(float(fp8_e5m2(57344.0f)) == 57344.0f);
  CHECK(std::isinf(float(fp8_e5m2(61440.0f))));
  CHECK(std::isinf(float(bf16(std::numeric_limits<float>::max()))));
  CHECK(float(bf16(1e-40f)) == float(bf16::from_bits(std::uint16_t(std::bit_cast<std::uint32_t>(1e-40f) >> 16))));
  // A signalling NaN with its payload in the low bits only must not become infinity.
  float const nan = std::bit_cast<float>(0x7f800001u);
  CHECK(bf16(nan).bits == 0x7fc0);
  CHECK(fp16(nan).bits == 0x7e00);
  CHECK(fp8_e5m2(nan).bits == 0x7e);
  CHECK(fp8_e4m3(nan).bits == 0x7f);
  CHECK(bf16(std::bit_cast<float>(0xffc12345u)).bits == 0xffc1);
  CHECK(fp16(std::bit_cast<float>(0xffc12345u)).bits == 0xfe09);
}

TEST_CASE("element: conversions are constant expressions") {
  static_assert(float(bf16(1.0f)) == 1.0f && float(fp16(-2.5f)) == -2.5f);
  static_assert(fp8_e4m3(1.0f).bits == 0x38 && fp8_e5m2(1.0f).bits == 0x3c && fp16(1.0f).bits == 0x3c00);
  CHECK(std::string_view(tenon::element_name<bf16>()) == "BF16");
  CHECK(std::string_view(tenon::element_name<fp8_e5m2>()) == "F8_E5M2");
}

TEST_CASE_TEMPLATE("element: lanes load every pattern as the scalar conversion does", T, bf16, fp16, fp8_e4m3,
                   fp8_e5m2) {
  using storage = decltype(T::bits);
  int wrong = 0;
  for (std::uint32_t b = 0; b < 1u << (8 * sizeof(T)); b += 16) {
    T in[16];
    float out[16];
    for (std::uint32_t i = 0; i < 16; ++i) in[i] = T::from_bits(storage(b + i));
    tenon::simd::store(out, tenon::simd::load(in));
    for (int i = 0; i < 16; ++i) {
      // A signalling NaN may become quiet on the way, which the width of the format decides; it stays a NaN.
      bool const same = std::bit_cast<std::uint32_t>(out[i]) == std::bit_cast<std::uint32_t>(float(in[i]));
      wrong += !same;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("element: lanes store as the scalar conversion does, to the bit", T, bf16, fp16, fp8_e4m3,
                   fp8_e5m2) {
  int wrong = 0;
  // The stride is prime: exponents, roundings, ties and NaN payloads of every kind come along.
  for (std::uint64_t b = 0; b < (std::uint64_t(1) << 32); b += 16 * 1021) {
    float in[16];
    T out[16];
    for (std::uint32_t i = 0; i < 16; ++i) {
      std::uint32_t bits = std::uint32_t(b) + i * 1021;
      if (i % 4 == 3) bits = (bits & 0xffffe000u) | 0x1000u;  // a tie of fp16
      if (i % 4 == 2) bits = (bits & 0xffff0000u) | 0x8000u;  // a tie of bf16
      in[i] = std::bit_cast<float>(bits);
    }
    tenon::simd::store(out, tenon::simd::load(in));
    for (int i = 0; i < 16; ++i) wrong += out[i].bits != T(in[i]).bits;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("element: partial loads fill, partial stores leave the rest", T, float, bf16, fp16, fp8_e4m3) {
  T in[16], out[16];
  for (int i = 0; i < 16; ++i) in[i] = T(float(i + 1));
  for (int n = 0; n <= 16; ++n) {
    float wide[16];
    tenon::simd::store(wide, tenon::simd::load(in, n, -3.0f));
    for (int i = 0; i < 16; ++i) CHECK(wide[i] == (i < n ? float(in[i]) : -3.0f));
    for (auto& o : out) o = T(7.0f);
    tenon::simd::store(out, tenon::simd::load(in), n);
    for (int i = 0; i < 16; ++i) CHECK(float(out[i]) == (i < n ? float(in[i]) : 7.0f));
  }
}
