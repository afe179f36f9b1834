// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Test data: reproducible numbers, poison, error measures and a hash of bits.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <tenon/core/element.hpp>
#include <tenon/core/view.hpp>

namespace ref {

using tenon::index_t;

/// `n` numbers, uniform in [-range, range], the same everywhere.
template <class T = float>
std::vector<T> random_values(index_t n, unsigned seed, double range = 1.0) {
  std::mt19937 engine(seed);
  std::vector<T> v(static_cast<std::size_t>(n));
  for (auto& x : v) x = T(float(range * (double(engine()) * 0x1p-31 - 1.0)));
  return v;
}
/// What outputs hold before a call.
template <class T = float>
std::vector<T> poison(index_t n) {
  return std::vector<T>(static_cast<std::size_t>(n), T(std::numeric_limits<float>::quiet_NaN()));
}
template <class T>
std::vector<double> as_double(std::vector<T> const& v) {
  std::vector<double> d(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) d[i] = double(float(v[i]));
  return d;
}
/// max |a - b| / (1 + |b|); NaN anywhere gives infinity.
template <class A, class B>
double error(std::vector<A> const& a, std::vector<B> const& b) {
  auto const number = [](auto x) {
    if constexpr (std::is_same_v<decltype(x), double>) return x;
    else return double(float(x));
  };
  double worst = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    double const e = std::abs(number(a[i]) - number(b[i])) / (1 + std::abs(number(b[i])));
    worst = e <= worst ? worst : (e == e ? e : std::numeric_limits<double>::infinity());
  }
  return worst;
}
template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
/// FNV-1a over the bytes.
template <class T>
std::uint64_t hash(std::vector<T> const& v, std::uint64_t h = 0xcbf29ce484222325u) {
  auto const* const p = reinterpret_cast<unsigned char const*>(v.data());
  for (std::size_t i = 0; i < v.size() * sizeof(T); ++i) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}
/// The gradient of a scalar function of `at`, by central differences in double.
template <class Function>
std::vector<double> central_differences(std::vector<double> at, Function&& function, double step = 1e-5) {
  std::vector<double> d(at.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    double const old = at[i];
    at[i] = old + step;
    double const above = function(at);
    at[i] = old - step;
    double const below = function(at);
    at[i] = old;
    d[i] = (above - below) / (2 * step);
  }
  return d;
}
inline double dot(std::vector<double> const& a, std::vector<double> const& b) {
  double s = 0;
  for (std::size_t i = 0; i < a.size(); ++i) s += a[i] * b[i];
  return s;
}
/// Largest acceptable `error` of one rounding to T, times a few.
template <class T>
constexpr double tolerance(double fp32) {
  return std::is_same_v<T, tenon::bf16> ? 0x1p-8 : std::is_same_v<T, tenon::fp16> ? 0x1p-11 + fp32 : fp32;
}

}  // namespace ref
