// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <tenon/ops/host/calibrate.hpp>

#include "ref/values.hpp"
#include "ref/weights.hpp"

using namespace tenon;

namespace {

constexpr index_t rows = 24, cols = 256, tokens = 400;

/// A layer, and the moments of inputs whose features depend on each other.
struct layer {
  std::vector<float> weights = ref::random_values(rows * cols, 1, 0.05);
  std::vector<float> moments = std::vector<float>(std::size_t(cols * cols));
  layer() {
    index_t const causes = 40;
    auto const hidden = ref::random_values(tokens * causes, 2), mix = ref::random_values(causes * cols, 3),
               noise = ref::random_values(tokens * cols, 4, 0.5);
    std::vector<double> x(std::size_t(tokens * cols));
    for (index_t t = 0; t < tokens; ++t)
      for (index_t c = 0; c < cols; ++c) {
        double sum = double(noise[std::size_t(t * cols + c)]);
        for (index_t i = 0; i < causes; ++i)
          sum += double(hidden[std::size_t(t * causes + i)]) * double(mix[std::size_t(i * cols + c)]);
        x[std::size_t(t * cols + c)] = sum;
      }
    for (index_t a = 0; a < cols; ++a)
      for (index_t b = 0; b <= a; ++b) {
        double sum = 0;
        for (index_t t = 0; t < tokens; ++t) sum += x[std::size_t(t * cols + a)] * x[std::size_t(t * cols + b)];
        moments[std::size_t(a * cols + b)] = moments[std::size_t(b * cols + a)] = float(sum);
      }
  }
  /// The mean square of what the outputs lose: the trace of (w - q) H (w - q)^T, over its number of elements.
  double loss(std::vector<float> const& quantized) const {
    double sum = 0;
    for (index_t r = 0; r < rows; ++r)
      for (index_t a = 0; a < cols; ++a)
        for (index_t b = 0; b < cols; ++b) {
          auto const lost = [&](index_t c) {
            auto const at = std::size_t(r * cols + c);
            return double(weights[at]) - double(quantized[at]);
          };
          sum += lost(a) * double(moments[std::size_t(a * cols + b)]) * lost(b);
        }
    return sum / double(rows * tokens);
  }
};

std::vector<double> feedback_of(exec::host_context& ctx, std::vector<float> moments) {
  std::vector<double> out(moments.size());
  ops::input_feedback(ctx,
                      ops::input_feedback_args{matrix(moments.data(), cols, cols), matrix(out.data(), cols, cols)});
  return out;
}
std::vector<float> decoded(exec::host_context& ctx, weight_format f, std::vector<std::byte> const& blocks) {
  std::vector<float> out(std::size_t(rows * cols));
  ops::dequantize(ctx, ops::dequantize_args{{f, blocks.data(), rows, cols}, out.data()});
  return out;
}
std::vector<std::byte> calibrated(exec::host_context& ctx, weight_format f, layer const& l) {
  std::vector<std::byte> out(std::size_t(rows * weight_view{f, nullptr, rows, cols}.row_bytes()), std::byte(0xaa));
  auto const feedback = feedback_of(ctx, l.moments);
  ops::quantize_for_inputs(
      ctx, ops::quantize_for_inputs_args{l.weights.data(), f, out.data(), rows, cols,
                                         as_const(matrix(const_cast<double*>(feedback.data()), cols, cols))});
  return out;
}

/// GPTQ as it is published, in fp64: the inverse of the damped moments, its Cholesky factor, one column after the other.
/// Blocks of Q4_0 have the scale that plain rounding gives their weights when it is their turn.
std::vector<float> published(exec::host_context& ctx, layer const& l) {
  auto const at = [](index_t r, index_t c) { return std::size_t(r * cols + c); };
  std::vector<double> h = ref::as_double(l.moments), inverse(h.size(), 0.0), factor(h.size(), 0.0);
  double mean = 0;
  for (index_t i = 0; i < cols; ++i) mean += h[at(i, i)] / double(cols);
  for (index_t i = 0; i < cols; ++i) h[at(i, i)] += 0.01 * mean, inverse[at(i, i)] = 1;
  for (index_t k = 0; k < cols; ++k) {  // Gauss and Jordan; no pivots, as h is positive
    double const pivot = h[at(k, k)];
    for (index_t c = 0; c < cols; ++c) h[at(k, c)] /= pivot, inverse[at(k, c)] /= pivot;
    for (index_t r = 0; r < cols; ++r) {
      double const times = h[at(r, k)];
      if (r == k) continue;
      for (index_t c = 0; c < cols; ++c) {
        h[at(r, c)] -= times * h[at(k, c)];
        inverse[at(r, c)] -= times * inverse[at(k, c)];
      }
    }
  }
  for (index_t i = 0; i < cols; ++i)  // inverse = factor^T factor
    for (index_t j = i; j < cols; ++j) {
      double sum = inverse[at(i, j)];
      for (index_t k = 0; k < i; ++k) sum -= factor[at(k, i)] * factor[at(k, j)];
      factor[at(i, j)] = i == j ? std::sqrt(sum) : sum / factor[at(i, i)];
    }
  std::vector<double> w = ref::as_double(l.weights);
  std::vector<float> out(w.size());
  for (index_t r = 0; r < rows; ++r) {
    double scale = 0;
    for (index_t c = 0; c < cols; ++c) {
      if (c % 32 == 0) {
        std::vector<float> const block(w.begin() + r * cols + c, w.begin() + r * cols + c + 32);
        std::byte bytes[18];
        ops::quantize(ctx, ops::quantize_args{block.data(), weight_format::q4_0, bytes, 1, 32});
        fp16 half;
        std::memcpy(&half.bits, bytes, 2);
        scale = double(float(half));
      }
      double const level = std::clamp(std::nearbyint(w[at(r, c)] / scale), -8.0, 7.0);
      out[at(r, c)] = float(level * scale);
      double const lost = (w[at(r, c)] - double(out[at(r, c)])) / factor[at(c, c)];
      for (index_t i = c; i < cols; ++i) w[at(r, i)] -= lost * factor[at(c, i)];
    }
  }
  return out;
}

}  // namespace

TEST_CASE("calibrate: columns are rounded as GPTQ rounds them, without its inverse") {
  exec::host_context ctx(2);
  layer const l;
  auto const found = decoded(ctx, weight_format::q4_0, calibrated(ctx, weight_format::q4_0, l));
  auto const expected = published(ctx, l);
  index_t different = 0;
  for (std::size_t i = 0; i < found.size(); ++i) different += found[i] != expected[i];
  CHECK(different == 0);
}

TEST_CASE("calibrate: outputs lose clearly less than by plain rounding, in every format of blocks, on any threads") {
  layer const l;
  for (std::size_t i = 3; i < weight_layouts.size(); ++i) {
    auto const f = weight_format(i);
    std::string const name = layout_of(f).name;
    CAPTURE(name);
    exec::host_context one(1), three(3);
    auto const blocks = calibrated(one, f, l);
    CHECK(calibrated(three, f, l) == blocks);
    std::vector<std::byte> plain(blocks.size());
    ops::quantize(one, ops::quantize_args{l.weights.data(), f, plain.data(), rows, cols});
    double const with = l.loss(decoded(one, f, blocks)), without = l.loss(decoded(one, f, plain));
    CHECK(with < 0.3 * without);
  }
}

TEST_CASE("calibrate: what cannot be used is refused") {
  exec::host_context ctx(1);
  layer l;
  CHECK_THROWS_WITH_AS(feedback_of(ctx, std::vector<float>(l.moments.size())), doctest::Contains("sum to 0.0"),
                       argument_error);
  CHECK_THROWS_WITH_AS(calibrated(ctx, weight_format::f16, l), doctest::Contains("256 numbers to F16"), argument_error);
  l.weights[5] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(calibrated(ctx, weight_format::q4_0, l), doctest::Contains("a weight is inf"), argument_error);
  l.moments[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH_AS(feedback_of(ctx, l.moments), doctest::Contains("sum to nan"), argument_error);
}
