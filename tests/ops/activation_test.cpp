// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/ops/host/activation.hpp>

#include "ref/activation.hpp"
#include "ref/values.hpp"

using namespace tenon;
using ops::activation_kind;

namespace {

constexpr activation_kind kinds[] = {activation_kind::none, activation_kind::gelu_tanh, activation_kind::gelu_erf,
                                     activation_kind::silu, activation_kind::relu};
constexpr std::array<index_t, 2> shapes[] = {{1, 1}, {1, 17}, {3, 16}, {5, 33}, {13, 7}};

template <class T>
void check_plain(activation_kind kind, index_t rows, index_t cols) {
  exec::host_context ctx(2);
  auto const x = ref::random_values<T>(rows * cols, 1, 6.0), d_out = ref::random_values<T>(rows * cols, 2);
  auto out = ref::poison<T>(rows * cols), d_x = out;
  ops::activation_forward(
      ctx, ops::activation_forward_args<T>{matrix(x.data(), rows, cols), matrix(out.data(), rows, cols), kind});
  ops::activation_backward(ctx, ops::activation_backward_args<T>{.x = matrix(x.data(), rows, cols),
                                                                 .d_out = matrix(d_out.data(), rows, cols),
                                                                 .d_x = matrix(d_x.data(), rows, cols),
                                                                 .kind = kind});
  std::vector<double> y, d;
  for (std::size_t i = 0; i < x.size(); ++i) {
    y.push_back(ref::activation(kind, double(float(x[i]))));
    d.push_back(double(float(d_out[i])) * ref::activation_derivative(kind, double(float(x[i]))));
  }
  CHECK(ref::error(out, y) < ref::tolerance<T>(1e-6));
  CHECK(ref::error(d_x, d) < ref::tolerance<T>(1e-6));
}

template <class T>
void check_gated(activation_kind kind, index_t rows, index_t f) {
  exec::host_context ctx(2);
  auto const in = ref::random_values<T>(rows * 2 * f, 1, 4.0), d_out = ref::random_values<T>(rows * f, 2);
  auto out = ref::poison<T>(rows * f), d_in = ref::poison<T>(rows * 2 * f);
  auto const view_in = matrix(in.data(), rows, 2 * f);
  ops::gated_activation_forward(ctx, ops::gated_activation_forward_args<T>{view_in, matrix(out.data(), rows, f), kind});
  ops::gated_activation_backward(ctx,
                                 ops::gated_activation_backward_args<T>{.gate_up = view_in,
                                                                        .d_out = matrix(d_out.data(), rows, f),
                                                                        .d_gate_up = matrix(d_in.data(), rows, 2 * f),
                                                                        .kind = kind});
  auto const inputs = ref::as_double(in), weights = ref::as_double(d_out);
  auto const forward = [&](std::vector<double> const& v) {
    std::vector<double> y;
    for (index_t r = 0; r < rows; ++r)
      for (index_t j = 0; j < f; ++j)
        y.push_back(ref::activation(kind, v[std::size_t(r * 2 * f + j)]) * v[std::size_t(r * 2 * f + f + j)]);
    return y;
  };
  CHECK(ref::error(out, forward(inputs)) < ref::tolerance<T>(1e-6));
  auto const d = ref::central_differences(inputs, [&](auto const& v) { return ref::dot(forward(v), weights); });
  CHECK(ref::error(d_in, d) < ref::tolerance<T>(1e-6));
}

}  // namespace

TEST_CASE_TEMPLATE("activations agree with the reference and its central differences", T, float, bf16, fp16) {
  for (auto const kind : kinds)
    for (auto const& shape : shapes) {
      index_t const rows = shape[0], cols = shape[1];
      CAPTURE(int(kind));
      CAPTURE(cols);
      check_plain<T>(kind, rows, cols);
      check_gated<T>(kind, rows, cols);
    }
}

TEST_CASE("activations at the ends of the range") {
  float const big = std::numeric_limits<float>::max(), nan = std::numeric_limits<float>::quiet_NaN();
  for (auto const kind : kinds) {
    CAPTURE(int(kind));
    auto const at = [&](float x) {
      std::array<float, 2> r{};
      float t[lanes];
      simd::store(t, ops::apply_activation(kind, simd::broadcast(x)));
      r[0] = t[0];
      simd::store(t, ops::activation_derivative(kind, simd::broadcast(x)));
      r[1] = t[0];
      return r;
    };
    CHECK(at(big) == std::array{big, 1.0f});
    CHECK(at(100.0f) == std::array{100.0f, 1.0f});
    if (kind != activation_kind::none) {
      CHECK(at(-big) == std::array{0.0f, 0.0f});
      CHECK(at(-200.0f) == std::array{0.0f, 0.0f});
    }
    CHECK(at(nan)[0] != at(nan)[0]);
    // relu's and none's derivatives are constants on either side
    if (kind != activation_kind::none && kind != activation_kind::relu) CHECK(at(nan)[1] != at(nan)[1]);
  }
}

TEST_CASE("d_x may alias d_out, and rows may have gaps") {
  exec::host_context ctx(3);
  auto const x = ref::random_values(5 * 40, 1), d_out = ref::random_values(5 * 40, 2);
  auto const wide = matrix(x.data(), 5, 21, 40), d_wide = matrix(d_out.data(), 5, 21, 40);
  auto dense = ref::poison(5 * 21), aliased = d_out;
  ops::activation_backward(ctx, ops::activation_backward_args<float>{.x = wide,
                                                                     .d_out = d_wide,
                                                                     .d_x = matrix(dense.data(), 5, 21),
                                                                     .kind = activation_kind::silu});
  auto const view = matrix(aliased.data(), 5, 21, 40);
  ops::activation_backward(
      ctx, ops::activation_backward_args<float>{.x = wide, .d_out = view, .d_x = view, .kind = activation_kind::silu});
  for (std::size_t r = 0; r < 5; ++r)
    for (std::size_t j = 0; j < 40; ++j) CHECK(aliased[r * 40 + j] == (j < 21 ? dense[r * 21 + j] : d_out[r * 40 + j]));
  CHECK_THROWS_AS(ops::activation_forward(ctx, ops::activation_forward_args<float>{wide, matrix(dense.data(), 21, 5)}),
                  argument_error);
}
