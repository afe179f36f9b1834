// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/ops/host/norm.hpp>

#include "ref/norm.hpp"
#include "ref/values.hpp"

using namespace tenon;

namespace {

/// One problem, forward and backward, with padded rows of x and gradients.
template <class T, bool Centered>
struct problem {
  index_t rows, cols, leaf;
  int threads = 2;
  float offset = Centered ? 0.0f : 1.0f;
  std::vector<T> x = ref::random_values<T>(rows * cols, 1, 2.0);
  std::vector<T> weight = ref::random_values<T>(cols, 2);
  std::vector<T> bias = ref::random_values<T>(cols, 3);
  std::vector<T> d_out = ref::random_values<T>(rows * cols, 4);
  std::vector<T> add = ref::random_values<T>(rows * cols, 5);
  std::vector<T> out = ref::poison<T>(rows * cols), d_x = ref::poison<T>(rows * cols);
  std::vector<float> mean = ref::poison(rows), rstd = ref::poison(rows);
  std::vector<float> d_weight = ref::poison(cols), d_bias = ref::poison(cols);

  void run() {
    exec::host_context ctx(threads);
    matrix_view<T const> const xs = matrix<T const>(x.data(), rows, cols),
                               adds = matrix<T const>(add.data(), rows, cols);
    matrix_view<T const> const ds = matrix<T const>(d_out.data(), rows, cols);
    auto const outs = matrix(out.data(), rows, cols), d_xs = matrix(d_x.data(), rows, cols);
    if constexpr (Centered) {
      ops::layer_norm_forward(ctx, ops::layer_norm_forward_args<T>{.x = xs,
                                                                   .weight = weight.data(),
                                                                   .bias = bias.data(),
                                                                   .epsilon = 1e-5f,
                                                                   .out = outs,
                                                                   .mean = mean.data(),
                                                                   .rstd = rstd.data()});
      ops::layer_norm_backward(ctx, ops::layer_norm_backward_args<T>{.d_out = ds,
                                                                     .x = xs,
                                                                     .mean = mean.data(),
                                                                     .rstd = rstd.data(),
                                                                     .weight = weight.data(),
                                                                     .d_x = d_xs,
                                                                     .add_to = adds,
                                                                     .d_weight = d_weight.data(),
                                                                     .d_bias = d_bias.data(),
                                                                     .leaf = leaf});
    } else {
      ops::rms_norm_forward(ctx, ops::rms_norm_forward_args<T>{.x = xs,
                                                               .weight = weight.data(),
                                                               .epsilon = 1e-5f,
                                                               .out = outs,
                                                               .rstd = rstd.data(),
                                                               .weight_offset = offset});
      ops::rms_norm_backward(ctx, ops::rms_norm_backward_args<T>{.d_out = ds,
                                                                 .x = xs,
                                                                 .rstd = rstd.data(),
                                                                 .weight = weight.data(),
                                                                 .d_x = d_xs,
                                                                 .add_to = adds,
                                                                 .d_weight = d_weight.data(),
                                                                 .leaf = leaf,
                                                                 .weight_offset = offset});
    }
  }
  std::uint64_t hash() const {
    return ref::hash(out, ref::hash(d_x, ref::hash(rstd, ref::hash(d_weight, Centered ? ref::hash(d_bias) : 1))));
  }
  void check_against_reference() {
    ref::norm_shape const s{rows, cols, Centered, 1e-5, offset};
    auto const xd = ref::as_double(x), wd = ref::as_double(weight), dd = ref::as_double(d_out),
               ad = ref::as_double(add);
    auto const bd = Centered ? ref::as_double(bias) : std::vector<double>{};
    CHECK(ref::error(out, ref::norm_forward(s, xd, wd, bd)) < ref::tolerance<T>(2e-6));
    auto const loss = [&](auto const& a, auto const& b, auto const& c) {
      return ref::dot(ref::norm_forward(s, a, b, c), dd);
    };
    auto d_x_ref = ref::central_differences(xd, [&](auto const& v) { return loss(v, wd, bd); });
    for (std::size_t i = 0; i < d_x_ref.size(); ++i) d_x_ref[i] += ad[i];
    // A row of one is constant under LayerNorm, and differences see only its rounding.
    CHECK(ref::error(d_x, d_x_ref) < ref::tolerance<T>(Centered && cols < 3 ? 1e-4 : 2e-5));
    CHECK(ref::error(d_weight, ref::central_differences(wd, [&](auto const& v) { return loss(xd, v, bd); })) < 2e-5);
    if (Centered)
      CHECK(ref::error(d_bias, ref::central_differences(bd, [&](auto const& v) { return loss(xd, wd, v); })) < 2e-5);
  }
};

template <class T, bool Centered>
void check_shapes() {
  for (auto const& shape : {std::array<index_t, 3>{1, 1, 16},
                            {1, 7, 16},
                            {5, 16, 16},
                            {7, 33, 16},
                            {37, 19, 16},
                            {6, 48, 0},
                            {70, 5, 16}}) {
    index_t const rows = shape[0], cols = shape[1], leaf = shape[2];
    CAPTURE(rows);
    CAPTURE(cols);
    problem<T, Centered> p{rows, cols, leaf};
    p.run();
    p.check_against_reference();
  }
}

}  // namespace

TEST_CASE_TEMPLATE("norms agree with the reference and its central differences", T, float, bf16, fp16) {
  check_shapes<T, true>();
  check_shapes<T, false>();
}

TEST_CASE("threads and the path through leaves change no bit of a norm") {
  for (index_t const rows : {64, 61}) {
    problem<float, true> one{rows, 131, 16, 1}, two{rows, 131, 16, 2},
        five{rows, 131, 16, 5};  // five: columns of leaves
    one.run(), two.run(), five.run();
    CHECK(one.hash() == two.hash());
    CHECK(one.hash() == five.hash());
  }
}

TEST_CASE("norm gradients are chains in leaves, then the tree") {
  problem<float, true> p{50, 3, 16};
  p.run();
  std::vector<float> expected;
  for (index_t j = 0; j < p.cols; ++j) {
    tree<float> sum;
    auto const add = [](float& a, float b) { a += b; };
    for (index_t begin = 0; begin < p.rows; begin += p.leaf) {
      float chain = 0;
      for (index_t r = begin; r < std::min(p.rows, begin + p.leaf); ++r) {
        auto const i = std::size_t(r * p.cols + j), t = std::size_t(r);
        chain = std::fma(p.d_out[i], (p.x[i] - p.mean[t]) * p.rstd[t], chain);
      }
      sum.push(chain, add);
    }
    expected.push_back(sum.finish(add));
  }
  CHECK(ref::same_bits(p.d_weight, expected));
}

TEST_CASE("d_x may alias everything, gradients may accumulate, weights may be absent") {
  problem<float, true> p{21, 40, 16};
  p.run();
  for (int threads : {1, 4}) {
    exec::host_context ctx(threads);
    auto d = p.d_out;
    std::vector<float> d_weight(40, 1.0f), d_bias(40, 2.0f);
    auto const xs = matrix<float const>(p.x.data(), 21, 40);
    ops::layer_norm_backward(ctx,
                             ops::layer_norm_backward_args<float>{.d_out = matrix<float const>(d.data(), 21, 40),
                                                                  .x = xs,
                                                                  .mean = p.mean.data(),
                                                                  .rstd = p.rstd.data(),
                                                                  .weight = p.weight.data(),
                                                                  .d_x = matrix(d.data(), 21, 40),
                                                                  .add_to = matrix<float const>(p.add.data(), 21, 40),
                                                                  .d_weight = d_weight.data(),
                                                                  .d_bias = d_bias.data(),
                                                                  .leaf = 16,
                                                                  .accumulate = true});
    CHECK(ref::same_bits(d, p.d_x));
    for (std::size_t j = 0; j < 40; ++j) {
      CHECK(d_weight[j] == 1.0f + p.d_weight[j]);
      CHECK(d_bias[j] == 2.0f + p.d_bias[j]);
    }
    auto in_place = p.x;
    ops::layer_norm_forward(ctx, ops::layer_norm_forward_args<float>{.x = matrix<float const>(in_place.data(), 21, 40),
                                                                     .out = matrix(in_place.data(), 21, 40)});
    for (std::size_t i = 0; i < in_place.size(); ++i) CHECK(in_place[i] == (p.x[i] - p.mean[i / 40]) * p.rstd[i / 40]);
  }
}

TEST_CASE("no tokens: gradients are zero, or stay") {
  exec::host_context ctx(2);
  std::vector<float> w(20, 1.0f), d_weight = ref::poison(20), d_bias(20, 3.0f);
  ops::layer_norm_backward_args<float> a{.d_out = matrix<float const>(w.data(), 0, 20),
                                         .x = matrix<float const>(w.data(), 0, 20),
                                         .weight = w.data(),
                                         .d_x = matrix(w.data(), 0, 20),
                                         .d_weight = d_weight.data(),
                                         .leaf = 16};
  ops::layer_norm_backward(ctx, a);
  a.d_weight = nullptr, a.d_bias = d_bias.data(), a.accumulate = true;
  ops::layer_norm_backward(ctx, a);
  for (std::size_t j = 0; j < 20; ++j) {
    CHECK(d_weight[j] == 0.0f);
    CHECK(d_bias[j] == 3.0f);
  }
}

TEST_CASE("norms reject shapes that differ") {
  exec::host_context ctx(1);
  std::vector<float> v(12);
  CHECK_THROWS_AS(
      ops::layer_norm_forward(ctx, ops::layer_norm_forward_args<float>{.x = matrix<float const>(v.data(), 3, 4),
                                                                       .out = matrix(v.data(), 4, 3)}),
      argument_error);
}
