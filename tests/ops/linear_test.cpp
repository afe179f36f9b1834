// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <ref/weights.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/ops/host/linear.hpp>

namespace {

using namespace tenon;
using enum weight_format;

std::vector<weight_format> const in_blocks{q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, mxfp4};

float const poison = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_rows(index_t t, index_t k, char const* name) {
  random_stream const random(3, name);
  std::vector<float> x;
  for (index_t i = 0; i < t * k; ++i)
    x.push_back((2 * random.uniform(0, std::uint64_t(i)) - 1) * (i % 37 == 0 ? 8.0f : 1.0f));
  return x;
}
matrix_view<float const> rows_of(std::vector<float> const& v, index_t first, index_t rows, index_t cols) {
  return as_const(matrix(const_cast<float*>(v.data()) + first * cols, rows, cols));
}

std::vector<float> multiply(weight_view const& w, std::vector<float> const& x, index_t t, index_t leaf, int threads = 1,
                            index_t first = 0) {
  exec::host_context ctx(threads);
  std::vector<float> y(std::size_t(t * w.rows), poison);
  ops::linear(
      ctx,
      ops::linear_args{.x = rows_of(x, first, t, w.cols), .weight = w, .y = matrix(y.data(), t, w.rows), .leaf = leaf});
  return y;
}

/// One output as its order is written, from plain values: each group's scale and minimum are found out of them.
float in_order(weight_view const& w, index_t r, ops::quantized_block const* x, index_t leaf) {
  auto const add = [](float& a, float b) { a = a + b; };
  bool const halves = w.format == q2_k || w.format == q3_k || w.format == q6_k;
  auto const layout = layout_of(w.format);
  tree<float> sum;
  float chain = 0;
  for (index_t g = 0; g < w.cols / 32; ++g) {
    std::byte const* const p = w.row(r) + g * 32 / layout.values * layout.bytes;
    index_t const first = g * 32 % layout.values;
    // The format's own constants, read here a second time.
    auto const half = [&](index_t at) { return float(ref::half_at(p, at)); };
    float scale = 0, minimum[2] = {};
    switch (w.format) {
      case q4_1:
      case q5_1: scale = half(0), minimum[0] = half(2); break;
      case mxfp4: scale = std::ldexp(0.5f, ref::byte_at(p, 0) - 127); break;
      case q2_k: scale = half(80); break;
      case q3_k: scale = half(108); break;
      case q6_k: scale = half(208); break;
      case q4_k:
      case q5_k: {
        // One value of q = 0 would be -minimum; read the integers from the definition with other bytes zero.
        std::vector<std::byte> zero(p, p + layout.bytes), one;
        for (index_t i = 16; i < layout.bytes; ++i) zero[std::size_t(i)] = std::byte(0);
        one = zero;
        for (index_t i = layout.bytes - 128; i < layout.bytes; ++i) one[std::size_t(i)] = std::byte(0x11);
        minimum[0] = float(ref::block_value(w.format, zero.data(), first));
        scale = float(ref::block_value(w.format, one.data(), first) - double(minimum[0]));
        break;
      }
      default: scale = half(0);
    }
    if (w.format == q2_k)
      for (index_t h = 0; h < 2; ++h) minimum[h] = -half(82) * float(ref::byte_at(p, first / 16 + h) >> 4);
    double dot = 0;
    for (index_t i = 0; i < 32; ++i) {
      double const value = ref::block_value(w.format, p, first + i) - double(minimum[halves ? i / 16 : 0]);
      if (scale != 0) dot += std::round(value / double(scale)) * x[g].values[i];
    }
    chain = std::fma(float(dot), scale * x[g].scale, chain);
    if (w.format == q2_k)
      for (int h = 0; h < 2; ++h) chain = std::fma(minimum[h], x[g].scale * float(x[g].sums[h]), chain);
    else if (minimum[0] != 0) chain = std::fma(minimum[0], x[g].scaled_sum, chain);
    if (leaf > 0 && (g + 1) * 32 % leaf == 0) sum.push(std::exchange(chain, 0.0f), add);
  }
  if (leaf <= 0 || w.cols % leaf) sum.push(chain, add);
  return sum.finish(add);
}

}  // namespace

TEST_CASE("quantize_rows: integers within half a step, sums, zeros, infinities") {
  exec::host_context ctx(2);
  index_t const t = 7, k = 96;
  auto x = random_rows(t, k, "x");
  for (index_t i = 0; i < 32; ++i) x[std::size_t(i)] = i == 3 ? -0x1p-101f : 0.0f;
  x[40] = std::numeric_limits<float>::infinity();
  x[70] = poison;
  std::vector<ops::quantized_block> out(std::size_t(t * k / 32));
  ops::quantize_rows(ctx, ops::quantize_rows_args{rows_of(x, 0, t, k), matrix(out.data(), t, k / 32)});
  for (std::size_t b = 0; b < out.size(); ++b) {
    auto const& q = out[b];
    float amax = 0;
    int sums[2] = {};
    for (std::size_t i = 0; i < 32; ++i) amax = std::max(amax, std::abs(x[32 * b + i])), sums[i / 16] += q.values[i];
    CHECK(q.sums[0] == sums[0]);
    CHECK(q.sums[1] == sums[1]);
    if (b == 1 || b == 2) {
      CHECK(std::isnan(q.scale));
      CHECK(std::isnan(q.scaled_sum));
      CHECK(sums[0] + sums[1] == 0);
    } else if (b == 0) {
      CHECK(q.scale == 0);
      CHECK(q.values[3] == 0);
    } else {
      CHECK(q.scale == amax / 127);
      CHECK(q.scaled_sum == q.scale * float(sums[0] + sums[1]));
      for (std::size_t i = 0; i < 32; ++i)
        CHECK(std::abs(double(q.scale) * q.values[i] - double(x[32 * b + i])) <= 0.5001 * double(q.scale));
    }
  }
}

TEST_CASE("linear: every format in blocks in its written order, any number of rows and threads") {
  exec::host_context ctx(2);
  for (auto format : in_blocks)
    for (auto const& shape : {std::array<index_t, 2>{1, 1}, {16, 2}, {37, 3}, {71, 5}}) {
      index_t const n = shape[0], cols = shape[1] * (layout_of(format).values == 256 ? 256 : 96), most = 64;
      ref::random_weights const w(format, n, cols);
      auto const x = random_rows(most, cols, "x");
      std::vector<ops::quantized_block> q(std::size_t(most * cols / 32));
      ops::quantize_rows(ctx, ops::quantize_rows_args{rows_of(x, 0, most, cols), matrix(q.data(), most, cols / 32)});
      CAPTURE(layout_of(format).name);
      CAPTURE(n);
      CAPTURE(cols);
      for (index_t leaf : {index_t(0), index_t(32), index_t(64), index_t(160)}) {
        std::vector<float> wanted;
        for (index_t i = 0; i < 3; ++i)
          for (index_t r = 0; r < n; ++r) wanted.push_back(in_order(w.view, r, q.data() + i * cols / 32, leaf));
        auto const all = multiply(w.view, x, most, leaf, 2);
        index_t wrong = 0;
        for (std::size_t i = 0; i < wanted.size(); ++i) wrong += wanted[i] != all[i];
        CHECK(wrong == 0);
        for (index_t t : {index_t(1), index_t(2), index_t(3), index_t(17)}) {
          index_t const first = most - t;
          auto const some = multiply(w.view, x, t, leaf, int(t % 3 + 1), first);
          wrong = 0;
          for (index_t i = 0; i < t * n; ++i) wrong += !(some[std::size_t(i)] == all[std::size_t(first * n + i)]);
          CHECK(wrong == 0);
        }
      }
    }
}

TEST_CASE("linear: close to float64 of the same weights, as int8 activations are") {
  for (auto format : in_blocks) {
    index_t const t = 5, n = 33, k = 1024;
    ref::random_weights const w(format, n, k);
    auto const x = random_rows(t, k, "x");
    auto const y = multiply(w.view, x, t, 128);
    double error = 0, size = 0;
    for (index_t i = 0; i < t; ++i)
      for (index_t r = 0; r < n; ++r) {
        double exact = 0;
        for (index_t c = 0; c < k; ++c) exact += ref::weight_value(w.view, r, c) * double(x[std::size_t(i * k + c)]);
        error += (exact - double(y[std::size_t(i * n + r)])) * (exact - double(y[std::size_t(i * n + r)]));
        size += exact * exact;
      }
    CAPTURE(layout_of(format).name);
    CHECK(std::sqrt(error / size) < 0.02);
  }
}

TEST_CASE("linear: rows of the weights are free to be split") {
  for (auto format : in_blocks) {
    index_t const t = 4, n = 53, k = 256;
    ref::random_weights const w(format, n, k);
    auto const x = random_rows(t, k, "x");
    auto const whole = multiply(w.view, x, t, 64);
    for (index_t cut : {index_t(1), index_t(16), index_t(40)}) {
      weight_view below = w.view, above = w.view;
      below.rows = cut;
      above.rows = n - cut, above.data = w.view.row(cut);
      auto const a = multiply(below, x, t, 64), b = multiply(above, x, t, 64);
      index_t wrong = 0;
      for (index_t i = 0; i < t; ++i)
        for (index_t r = 0; r < n; ++r)
          wrong += whole[std::size_t(i * n + r)] !=
                   (r < cut ? a[std::size_t(i * cut + r)] : b[std::size_t(i * (n - cut) + r - cut)]);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("linear: weights that are numbers have the bits of gemm") {
  exec::host_context ctx(2);
  for (auto format : {f32, f16, weight_format::bf16})
    for (index_t t : {index_t(1), index_t(2), index_t(7), index_t(15), index_t(17)})
      for (index_t leaf : {index_t(0), index_t(16), index_t(48), index_t(50)}) {
        index_t const n = 101, k = leaf == 16 ? 131 : 136;
        ref::random_weights const w(format, n, k);
        auto const x = random_rows(t, k, "x");
        std::vector<float> wide, y(std::size_t(t * n), poison);
        for (index_t r = 0; r < n; ++r)
          for (index_t c = 0; c < k; ++c) wide.push_back(float(ref::weight_value(w.view, r, c)));
        ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = matrix(y.data(), t, n),
                                                           .a = rows_of(x, 0, t, k),
                                                           .b = transposed(rows_of(wide, 0, n, k)),
                                                           .leaf = leaf});
        CHECK(y == multiply(w.view, x, t, leaf, 2));
      }
}

TEST_CASE("linear: bias, activation, residual, activations quantized before") {
  exec::host_context ctx(2);
  for (auto format : {q4_k, q8_0, f16})
    for (index_t t : {index_t(1), index_t(9)}) {
      index_t const n = 45, k = 256;
      ref::random_weights const w(format, n, k);
      auto const x = random_rows(t, k, "x"), bias = random_rows(1, n, "bias"), residual = random_rows(t, n, "residual");
      auto const plain = multiply(w.view, x, t, 0);
      std::vector<ops::quantized_block> q(std::size_t(t * k / 32));
      ops::quantize_rows(ctx, ops::quantize_rows_args{rows_of(x, 0, t, k), matrix(q.data(), t, k / 32)});
      std::vector<float> y(std::size_t(t * n), poison);
      ops::linear(ctx, ops::linear_args{.x = format == f16 ? rows_of(x, 0, t, k) : matrix_view<float const>(),
                                        .weight = w.view,
                                        .y = matrix(y.data(), t, n),
                                        .bias = bias.data(),
                                        .activation = ops::activation_kind::relu,
                                        .residual = rows_of(residual, 0, t, n),
                                        .quantized = as_const(matrix(q.data(), t, k / 32))});
      for (index_t i = 0; i < t * n; ++i) {
        auto const at = std::size_t(i);
        CHECK(y[at] == std::max(plain[at] + bias[std::size_t(i % n)], 0.0f) + residual[at]);
      }
    }
}

TEST_CASE("linear: pieces below each other, in formats of their own, are products of their own") {
  index_t const k = 256, rows[] = {530, 16, 601}, n = 530 + 16 + 601;  // enough for several threads
  for (auto const& formats : {std::array{q5_0, q8_0, q4_k}, {f16, f32, weight_format::bf16}})
    for (index_t t : {index_t(1), index_t(3)}) {
      auto const x = random_rows(t, k, "x"), bias = random_rows(1, n, "bias"), residual = random_rows(t, n, "residual");
      std::vector<ref::random_weights> weights;
      std::vector<weight_view> pieces;
      for (std::size_t p = 0; p < 3; ++p) pieces.push_back(weights.emplace_back(formats[p], rows[p], k).view);
      std::vector<float> wanted(std::size_t(t * n));
      for (index_t p = 0, first = 0; p < 3; first += rows[p++]) {
        auto const y = multiply(pieces[std::size_t(p)], x, t, 64);
        for (index_t i = 0; i < t; ++i)
          for (index_t r = 0; r < rows[p]; ++r) {
            auto const at = std::size_t(i * n + first + r);
            wanted[at] = y[std::size_t(i * rows[p] + r)] + bias[std::size_t(first + r)] + residual[at];
          }
      }
      for (int threads : {1, 3}) {
        exec::host_context ctx(threads);
        std::vector<float> y(std::size_t(t * n), poison);
        ops::linear(ctx, ops::linear_args{.x = rows_of(x, 0, t, k),
                                          .weight = pieces[0],
                                          .below = std::span(pieces).subspan(1),
                                          .y = matrix(y.data(), t, n),
                                          .leaf = 64,
                                          .bias = bias.data(),
                                          .residual = rows_of(residual, 0, t, n)});
        CHECK(y == wanted);
      }
    }
}

TEST_CASE("table_rows: any row of any format, scaled") {
  exec::host_context ctx(2);
  std::vector<std::int32_t> const tokens{5, 0, 36, 36, 17};
  for (auto const& layout : weight_layouts) {
    auto const format = weight_format(&layout - weight_layouts.data());
    index_t const k = 512, t = index_t(tokens.size());
    ref::random_weights const w(format, 37, k);
    for (float scale : {1.0f, 25.298221f}) {
      std::vector<float> out(std::size_t(t * k), poison);
      ops::table_rows(ctx, ops::table_rows_args{tokens, w.view, matrix(out.data(), t, k), scale});
      index_t wrong = 0;
      for (index_t i = 0; i < t; ++i)
        for (index_t c = 0; c < k; ++c)
          wrong += out[std::size_t(i * k + c)] != scale * float(ref::weight_value(w.view, tokens[std::size_t(i)], c));
      CAPTURE(layout.name);
      CHECK(wrong == 0);
    }
    std::vector<float> out(std::size_t(k), poison);
    for (std::int32_t bad : {-1, 37})
      CHECK_THROWS_AS(ops::table_rows(ctx, ops::table_rows_args{std::span(&bad, 1), w.view, matrix(out.data(), 1, k)}),
                      argument_error);
  }
}

TEST_CASE("linear: what does not fit is refused") {
  exec::host_context ctx(1);
  ref::random_weights const w(q4_k, 3, 512);
  auto const x = random_rows(2, 512, "x");
  std::vector<float> y(6);
  ops::linear_args good{.x = rows_of(x, 0, 2, 512), .weight = w.view, .y = matrix(y.data(), 2, 3)};
  CHECK_NOTHROW(ops::linear(ctx, good));
  auto bad = good;
  bad.leaf = 48;
  CHECK_THROWS_AS(ops::linear(ctx, bad), argument_error);
  bad = good, bad.weight.cols = 384;
  CHECK_THROWS_AS(ops::linear(ctx, bad), argument_error);
  bad = good, bad.y = matrix(y.data(), 3, 2);
  CHECK_THROWS_AS(ops::linear(ctx, bad), argument_error);
  ref::random_weights const numbers(f16, 1, 512), narrow(q4_k, 1, 256);
  for (auto const* below : {&numbers.view, &narrow.view}) {
    bad = good, bad.weight.rows = 2, bad.below = {below, 1};
    CHECK_THROWS_AS(ops::linear(ctx, bad), argument_error);
  }
}
