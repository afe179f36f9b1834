// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/core/philox.hpp>
#include <tenon/core/view.hpp>
#include <tenon/ops/operation.hpp>

namespace tenon::ops {

/// out = x / (1 - rate) where a random number of the element is at least `rate`, else 0. The mask is a function of the
/// stream, the sample's number in the whole run and the element's place in the sample: backward is the same call on the
/// gradient, and a batch may be cut anywhere: between samples, and each sample between tokens.
/// @shape x, out [t, c], of samples x sequence_length tokens; out may alias x
template <class T>
struct dropout_args {
  matrix_view<T const> x;
  matrix_view<T> out;
  float rate = 0;
  random_stream stream;
  std::uint64_t first_sample = 0;
  index_t sequence_length = 0;  ///< rows of each sample that are here
  index_t first_position = 0;   ///< of the first of them in its sample
  index_t first_token = 0;      ///< of x, among the rows of all samples that are here
};

/// @error argument_error when shapes differ or rate is not in [0, 1)
/// @source Srivastava et al. 2014, JMLR 15   @test tests/ops/dropout_test.cpp
inline constexpr struct dropout_t : operation<dropout_t> {
  static constexpr char const* name = "dropout";
  template <class T>
  static profile::work work(dropout_args<T> const& a) {
    double const n = double(a.x.size());
    return {n, 2 * n * sizeof(T)};
  }
} dropout{};

}  // namespace tenon::ops
