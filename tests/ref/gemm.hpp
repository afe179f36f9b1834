// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Matrix multiplication by its definition: in float64, and in fp32 with the written order of sums.
#include <cmath>
#include <vector>

#include <tenon/core/reduction_order.hpp>
#include <tenon/ops/gemm.hpp>

namespace ref {

/// Element (i, j) of a b in float64.
template <class A, class B>
double gemm_element(tenon::matrix_view<A const> a, tenon::matrix_view<B const> b, tenon::index_t i, tenon::index_t j) {
  double sum = 0;
  for (tenon::index_t k = 0; k < a.extent(1); ++k) sum += double(float(a(i, k))) * double(float(b(k, j)));
  return sum;
}

/// Element (i, j) of |a| |b|: the scale of rounding errors.
template <class A, class B>
double gemm_magnitude(tenon::matrix_view<A const> a, tenon::matrix_view<B const> b, tenon::index_t i,
                      tenon::index_t j) {
  double sum = 0;
  for (tenon::index_t k = 0; k < a.extent(1); ++k) sum += std::abs(double(float(a(i, k))) * double(float(b(k, j))));
  return sum;
}

/// Element (i, j) of a b, bit for bit: one chain of fused multiply-adds per leaf, which goes through all pieces; leaves
/// by `tenon::tree`.
template <class A, class B>
float gemm_element_in_order(tenon::matrix_view<A const> a, tenon::matrix_view<B const> b,
                            std::vector<tenon::ops::k_piece> const& pieces, tenon::index_t i, tenon::index_t j) {
  auto const add = [](float& left, float right) { left = left + right; };
  tenon::tree<float> sum;
  for (tenon::index_t leaf = 0; leaf < pieces.at(0).leaves(); ++leaf) {
    float chain = 0;
    tenon::index_t first = 0;
    for (auto const& piece : pieces) {
      tenon::index_t const begin = leaf * piece.leaf_rows(), end = std::min(begin + piece.leaf_rows(), piece.rows);
      for (tenon::index_t k = first + begin; k < first + end; ++k)
        chain = std::fma(float(a(i, k)), float(b(k, j)), chain);
      first += piece.rows;
    }
    sum.push(chain, add);
  }
  return sum.finish(add);
}
/// The same for one piece.
template <class A, class B>
float gemm_element_in_order(tenon::matrix_view<A const> a, tenon::matrix_view<B const> b, tenon::index_t leaf,
                            tenon::index_t i, tenon::index_t j) {
  return gemm_element_in_order(a, b, {{a.extent(1), leaf}}, i, j);
}

}  // namespace ref
