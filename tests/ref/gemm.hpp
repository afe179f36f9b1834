// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Matrix multiplication by its definition: in float64, and in fp32 with the written order of sums.
#include <cmath>
#include <vector>

#include <tenon/core/reduction_order.hpp>
#include <tenon/core/view.hpp>

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

/// Element (i, j) of a b, bit for bit: one chain of fused multiply-adds per leaf, leaves by `tenon::tree`.
template <class A, class B>
float gemm_element_in_order(tenon::matrix_view<A const> a, tenon::matrix_view<B const> b, tenon::index_t leaf,
                            tenon::index_t i, tenon::index_t j) {
  tenon::index_t const extent = a.extent(1), length = leaf > 0 ? leaf : extent;
  auto const add = [](float& left, float right) { left = left + right; };
  tenon::tree<float> sum;
  for (tenon::index_t begin = 0; begin < extent; begin += length) {
    float chain = 0;
    for (tenon::index_t k = begin; k < std::min(begin + length, extent); ++k)
      chain = std::fma(float(a(i, k)), float(b(k, j)), chain);
    sum.push(chain, add);
  }
  return sum.finish(add);
}

}  // namespace ref
