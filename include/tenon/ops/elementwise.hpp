// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Flat arrays added, scaled and converted; sums of columns.
#include <tenon/core/element.hpp>
#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// y += x, rounded once to Y. @shape y, x [n]; they may be the same
template <class Y, class X = Y>
struct add_args {
  Y* y = nullptr;
  X const* x = nullptr;
  index_t n = 0;
};
/// x *= factor. @shape x [n]
template <class T>
struct scale_args {
  T* x = nullptr;
  index_t n = 0;
  float factor = 1.0f;
};
/// out = in, rounded to nearest even. @shape out, in [n]; they may be the same only when the types are
template <class To, class From>
struct convert_args {
  To* out = nullptr;
  From const* in = nullptr;
  index_t n = 0;
};
/// out [n] = (or += when `accumulate`) the sum of the rows of x: a chain of additions in row order, from +0, in leaves
/// of `leaf` rows (0: one leaf), then the tree over leaves. @shape x [t,n]
template <class T>
struct column_sum_args {
  matrix_view<T const> x;
  float* out = nullptr;
  index_t leaf = 0;
  bool accumulate = false;
};

/// @test tests/ops/elementwise_test.cpp
inline constexpr struct add_t : operation<add_t> {
  static constexpr char const* name = "add";
  template <class Y, class X>
  static profile::work work(add_args<Y, X> const& a) {
    return {double(a.n), double(a.n) * (2 * sizeof(Y) + sizeof(X))};
  }
} add{};

inline constexpr struct scale_t : operation<scale_t> {
  static constexpr char const* name = "scale";
  template <class T>
  static profile::work work(scale_args<T> const& a) {
    return {double(a.n), double(a.n) * 2 * sizeof(T)};
  }
} scale{};

inline constexpr struct convert_t : operation<convert_t> {
  static constexpr char const* name = "convert";
  template <class To, class From>
  static profile::work work(convert_args<To, From> const& a) {
    return {0, double(a.n) * (sizeof(To) + sizeof(From))};
  }
} convert{};

/// @error argument_error when the columns of x are not adjacent
inline constexpr struct column_sum_t : operation<column_sum_t> {
  static constexpr char const* name = "column_sum";
  template <class T>
  static profile::work work(column_sum_args<T> const& a) {
    return {double(a.x.size()), double(a.x.size()) * sizeof(T)};
  }
} column_sum{};

}  // namespace tenon::ops
