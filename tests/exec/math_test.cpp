// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Error bounds in units in the last place, against the C library in double, over sweeps of the floats themselves.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <tenon/exec/host/math.hpp>

namespace sd = tenon::simd;
using sd::f32x16;

namespace {

constexpr float infinity = HUGE_VALF;
float const not_a_number = std::numeric_limits<float>::quiet_NaN();

/// The distance of `got` from `want` in units in the last place of a float of that size.
double ulps(float got, double want) {
  if (!std::isfinite(got) || std::isnan(want)) return HUGE_VAL;
  int exponent = 0;
  std::frexp(want, &exponent);
  return std::fabs(double(got) - want) / std::ldexp(1.0, std::max(exponent, -125) - 24);
}

/// Floats in order of size as integers, so that a sweep meets every exponent equally often.
std::int64_t key(float x) {
  auto const b = std::bit_cast<std::int32_t>(x);
  return b < 0 ? std::int64_t(std::numeric_limits<std::int32_t>::min()) - b : b;
}
float from_key(std::int64_t k) {
  return std::bit_cast<float>(std::int32_t(k < 0 ? std::numeric_limits<std::int32_t>::min() - k : k));
}

struct error {
  double ulp = 0;
  float at = 0;
};
template <class Lanes, class Reference>
error worst(Lanes function, Reference reference, std::vector<float> x) {
  while (x.size() % 16) x.push_back(x.back());
  error e;
  for (std::size_t i = 0; i < x.size(); i += 16) {
    float y[16];
    sd::store(y, function(sd::load(&x[i])));
    for (std::size_t k = 0; k < 16; ++k) {
      double const want = reference(double(x[i + k]));
      // Errors relative to subnormal results are not promised.
      if (std::fabs(want) < 0x1p-126 && want != 0) continue;
      double const u = ulps(y[k], want);
      if (!(u <= e.ulp)) e = {u, x[i + k]};
    }
  }
  return e;
}
/// `n` floats between lo and hi, evenly among the floats; a random phase in every interval.
std::vector<float> floats_between(float lo, float hi, int n) {
  std::mt19937 random(7);
  std::vector<float> x{lo, hi};
  double const step = double(key(hi) - key(lo)) / n;
  for (int i = 0; i < n; ++i) x.push_back(from_key(key(lo) + std::int64_t((i + double(random()) * 0x1p-32) * step)));
  return x;
}
void check(char const* name, error e, double bound) {
  CAPTURE(name);
  CAPTURE(e.at);
  CHECK(e.ulp <= bound);
  CHECK(e.ulp > 0);  // something was compared
}

auto const exp_lanes = [](f32x16 v) { return sd::exp(v); };
auto const log_lanes = [](f32x16 v) { return sd::log(v); };
auto const sigmoid_lanes = [](f32x16 v) { return sd::sigmoid(v); };
auto const tanh_lanes = [](f32x16 v) { return sd::tanh(v); };
auto const erf_lanes = [](f32x16 v) { return sd::erf(v); };
auto const sin_lanes = [](f32x16 v) { return sd::sin(v); };
auto const cos_lanes = [](f32x16 v) { return sd::cos(v); };
auto const sin_double = [](double v) { return std::sin(v); };
auto const cos_double = [](double v) { return std::cos(v); };

}  // namespace

TEST_CASE("math: exp within 1 ulp where the result is normal") {
  auto const reference = [](double v) { return std::exp(v); };
  check("exp", worst(exp_lanes, reference, floats_between(-0x1.5d589ep+6f, 0x1.62e42ep+6f, 200'000)), 1);
  std::vector<float> even;
  for (int i = 0; i < 200'000; ++i) even.push_back(-87.3f + float(i) * (176.0f / 200'000));
  check("exp, evenly", worst(exp_lanes, reference, even), 1);
}

TEST_CASE("math: log within 1 ulp for every positive float") {
  auto const reference = [](double v) { return std::log(v); };
  check("log", worst(log_lanes, reference, floats_between(0x1p-149f, 0x1.fffffep127f, 200'000)), 1);
  check("log near 1", worst(log_lanes, reference, floats_between(0.5f, 2.0f, 200'000)), 1);
}

TEST_CASE("math: sigmoid within 2.5 ulp, tanh within 2, erf within 1.1") {
  auto const sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  check("sigmoid", worst(sigmoid_lanes, sigmoid, floats_between(-87.3f, 100.0f, 200'000)), 2.5);
  check("sigmoid", worst(sigmoid_lanes, sigmoid, floats_between(-20.0f, -0.1f, 100'000)), 2.5);
  auto const tanh = [](double v) { return std::tanh(v); };
  check("tanh", worst(tanh_lanes, tanh, floats_between(-20.0f, 20.0f, 200'000)), 2);
  check("tanh", worst(tanh_lanes, tanh, floats_between(0.1f, 10.0f, 100'000)), 2);
  auto const erf = [](double v) { return std::erf(v); };
  check("erf", worst(erf_lanes, erf, floats_between(-10.0f, 10.0f, 200'000)), 1.1);
  check("erf", worst(erf_lanes, erf, floats_between(0.1f, 4.0f, 100'000)), 1.1);
}

TEST_CASE("math: sin and cos within 2 ulp for every finite float") {
  float const largest = std::numeric_limits<float>::max();
  check("sin", worst(sin_lanes, sin_double, floats_between(-0x1p20f, 0x1p20f, 150'000)), 2);
  check("cos", worst(cos_lanes, cos_double, floats_between(-0x1p20f, 0x1p20f, 150'000)), 2);
  check("sin", worst(sin_lanes, sin_double, floats_between(1.0f, 0x1p20f, 100'000)), 2);
  check("cos", worst(cos_lanes, cos_double, floats_between(1.0f, 0x1p20f, 100'000)), 2);
  check("sin far", worst(sin_lanes, sin_double, floats_between(0x1p20f, largest, 30'000)), 2);
  check("cos far", worst(cos_lanes, cos_double, floats_between(-largest, -0x1p20f, 30'000)), 2);
  // The floats next to multiples of pi/2 lose the most digits.
  std::vector<float> hard;
  for (int k = 1; k < 2'000'000; k += k < 10'000 ? 1 : 53) {
    float const x = float(k * 1.5707963267948966);
    for (float y : {std::nextafter(x, 0.0f), x, std::nextafter(x, infinity)}) hard.push_back(k % 2 ? y : -y);
  }
  check("sin near multiples of pi/2", worst(sin_lanes, sin_double, hard), 2);
  check("cos near multiples of pi/2", worst(cos_lanes, cos_double, hard), 2);
}

TEST_CASE("math: angles of rotary embeddings, positions up to a million") {
  std::vector<float> angles;
  for (int pair = 0; pair < 64; ++pair) {
    auto const frequency = float(std::pow(10'000.0, -pair / 64.0));
    for (int position = 0; position < 1 << 20; position += 997) angles.push_back(float(position) * frequency);
  }
  check("sin", worst(sin_lanes, sin_double, angles), 2);
  check("cos", worst(cos_lanes, cos_double, angles), 2);
}

TEST_CASE("math: the ends of the range, infinities and NaN") {
  CHECK(sd::exp(0.0f) == 1.0f);
  CHECK(sd::exp(-0.0f) == 1.0f);
  CHECK(sd::exp(-infinity) == 0.0f);
  CHECK_FALSE(std::signbit(sd::exp(-infinity)));
  CHECK(sd::exp(-87.34f) == 0.0f);  // e^-87.34 is subnormal
  CHECK(sd::exp(-0x1.5d589ep+6f) >= 0x1p-126f);
  CHECK(sd::exp(infinity) == infinity);
  CHECK(sd::exp(89.0f) == infinity);
  CHECK(std::isfinite(sd::exp(0x1.62e42ep+6f)));
  CHECK(sd::exp(0x1.62e430p+6f) == infinity);
  CHECK(sd::exp(-3e38f) == 0.0f);
  CHECK(sd::exp(3e38f) == infinity);
  CHECK(sd::log(1.0f) == 0.0f);
  CHECK(sd::log(0.0f) == -infinity);
  CHECK(sd::log(-0.0f) == -infinity);
  CHECK(sd::log(infinity) == infinity);
  CHECK(std::isnan(sd::log(-1.0f)));
  CHECK(std::isnan(sd::log(-infinity)));
  CHECK(sd::sigmoid(0.0f) == 0.5f);
  CHECK(sd::sigmoid(-infinity) == 0.0f);
  CHECK(sd::sigmoid(infinity) == 1.0f);
  CHECK(sd::sigmoid(-88.0f) == 0.0f);
  CHECK(sd::tanh(infinity) == 1.0f);
  CHECK(sd::tanh(-infinity) == -1.0f);
  CHECK(sd::tanh(9.5f) == 1.0f);
  CHECK(sd::erf(infinity) == 1.0f);
  CHECK(sd::erf(-infinity) == -1.0f);
  CHECK(sd::erf(3.95f) == 1.0f);
  CHECK(sd::sin(0.0f) == 0.0f);
  CHECK(sd::cos(0.0f) == 1.0f);
  for (float bad : {infinity, -infinity, not_a_number}) {
    CHECK(std::isnan(sd::sin(bad)));
    CHECK(std::isnan(sd::cos(bad)));
  }
  CHECK(std::isnan(sd::exp(not_a_number)));
  CHECK(std::isnan(sd::log(not_a_number)));
  CHECK(std::isnan(sd::sigmoid(not_a_number)));
  CHECK(std::isnan(sd::tanh(not_a_number)));
  CHECK(std::isnan(sd::erf(not_a_number)));
  // Subnormal arguments.
  CHECK(sd::exp(1e-40f) == 1.0f);
  CHECK(sd::tanh(1e-40f) == 1e-40f);
  CHECK(sd::sin(-1e-40f) == -1e-40f);
  CHECK(sd::cos(1e-40f) == 1.0f);
}

TEST_CASE("math: symmetry, and lanes do not see each other") {
  auto const x = floats_between(-30.0f, 30.0f, 3200);
  for (std::size_t i = 0; i + 16 <= x.size(); i += 16) {
    float s[16], c[16], e[16];
    f32x16 sine, cosine;
    sd::sincos(sd::load(&x[i]), sine, cosine);
    sd::store(s, sine), sd::store(c, cosine), sd::store(e, sd::exp(sd::load(&x[i])));
    bool same = true;
    for (std::size_t k = 0; k < 16; ++k) {
      float const v = x[i + k];
      same = same && sd::sin(v) == s[k] && sd::cos(v) == c[k] && sd::exp(v) == e[k];
      same = same && sd::tanh(-v) == -sd::tanh(v) && sd::erf(-v) == -sd::erf(v);
      same = same && sd::sin(-v) == -sd::sin(v) && sd::cos(-v) == sd::cos(v);
    }
    CHECK(same);
  }
  // One lane on the slow path of sin leaves the others as they are.
  float mixed[16], got[16];
  for (int i = 0; i < 16; ++i) mixed[i] = i == 5 ? 3e30f : i == 6 ? not_a_number : float(i) * 0.7f;
  sd::store(got, sd::sin(sd::load(mixed)));
  for (int i = 0; i < 16; ++i)
    if (i != 6) CHECK(got[i] == sd::sin(mixed[i]));
  CHECK(std::isnan(got[6]));
}
