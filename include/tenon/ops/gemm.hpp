// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file General matrix multiplication with a written order of sums and a fused epilogue.
#include <algorithm>
#include <span>

#include <tenon/core/reduction_order.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

enum class activation_kind { none, gelu_tanh, gelu_erf, silu, relu };

/// A range of k that has leaves of its own, like the q of a fused q, k, v.
struct k_piece {
  index_t rows = 0;
  index_t leaf = 0;  ///< 0: all of it is one leaf
  constexpr index_t leaf_rows() const { return leaf > 0 ? std::min(leaf, rows) : rows; }
  constexpr index_t leaves() const { return ceil_div(rows, leaf_rows()); }
};

/// c = residual + activation(a b + bias), or c += ... when `accumulate` is set.
/// A transposed operand is a view with swapped strides: `transposed(m)`. One stride of each view must be 1.
///
/// Order of arithmetic: each element is one chain of fused multiply-adds in k order per leaf of `leaf` values (0: all of
/// k is one leaf), leaves combined by the fixed tree of core/reduction_order.hpp; then bias, activation, residual and
/// the old value of c are added in that order, each rounded once (fp32), and the result is rounded to c's type.
/// With `pieces` (consecutive ranges that make up k, each with the same number of leaves; `leaf` is not used) leaf j is
/// one chain through leaf j of the first piece, then of the second, and so on: whoever holds leaf j of all pieces holds
/// leaf j of the sum.
/// It does not depend on threads, tiles, the other rows or columns, or the instruction set.
/// @shape c [m,n]  a [m,k]  b [k,n]  bias [n]  residual [m,n]  pre_activation [m,n]
template <class C, class A, class B>
struct gemm_args {
  matrix_view<C> c;
  matrix_view<A const> a;
  matrix_view<B const> b;
  index_t leaf = 0;
  std::span<k_piece const> pieces{};
  bool accumulate = false;
  float const* bias = nullptr;
  activation_kind activation = activation_kind::none;
  matrix_view<C const> residual{};  ///< added when not empty
  matrix_view<C> pre_activation{};  ///< receives a b + bias when not empty (what backward needs)
};

/// @source Goto, van de Geijn 2008, "Anatomy of high-performance matrix multiplication"  @test tests/ops/gemm_test.cpp
inline constexpr struct gemm_t : operation<gemm_t> {
  static constexpr char const* name = "gemm";
  template <class C, class A, class B>
  static profile::work work(gemm_args<C, A, B> const& g) {
    double const m = double(g.c.extent(0)), n = double(g.c.extent(1)), k = double(g.a.extent(1));
    return {2 * m * n * k,
            m * k * sizeof(A) + k * n * sizeof(B) +
                m * n * sizeof(C) * (1 + g.accumulate + !g.residual.empty() + !g.pre_activation.empty())};
  }
} gemm{};

}  // namespace tenon::ops
