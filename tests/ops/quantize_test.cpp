// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <tenon/ops/host/quantize.hpp>

#include "io/scratch_folder.hpp"
#include "ref/values.hpp"
#include "ref/weights.hpp"

using namespace tenon;

namespace {

std::vector<weight_format> all_formats() {
  std::vector<weight_format> all;
  for (std::size_t f = 0; f < weight_layouts.size(); ++f) all.push_back(weight_format(f));
  return all;
}
std::vector<std::byte> encoded(exec::host_context& ctx, weight_format f, std::vector<float> const& x, index_t cols) {
  index_t const rows = index_t(x.size()) / cols;
  std::vector<std::byte> out(std::size_t(rows * weight_view{f, nullptr, rows, cols}.row_bytes()), std::byte{0xaa});
  ops::quantize(ctx, ops::quantize_args{x.data(), f, out.data(), rows, cols});
  return out;
}
std::vector<float> decoded(exec::host_context& ctx, weight_format f, std::vector<std::byte> const& b, index_t cols) {
  index_t const rows = index_t(b.size()) / weight_view{f, nullptr, 1, cols}.row_bytes();
  auto out = ref::poison(rows * cols);
  ops::dequantize(ctx, ops::dequantize_args{{f, b.data(), rows, cols}, out.data()});
  return out;
}
/// Root of the mean square of the difference, over that of x.
double relative_error(std::vector<float> const& x, std::vector<float> const& y) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += std::pow(double(x[i]) - double(y[i]), 2);
    size += std::pow(double(x[i]), 2);
  }
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("quantize: any bits are decoded to what the table of layouts says") {
  std::mt19937 random(1);
  for (auto const f : all_formats()) {
    auto const& layout = layout_of(f);
    CAPTURE(layout.name);
    std::vector<std::byte> blocks(std::size_t(200 * layout.bytes));
    for (auto& b : blocks) b = std::byte(random() & 255);
    exec::host_context ctx(2);
    auto const out = decoded(ctx, f, blocks, layout.values);
    int wrong = 0, finite = 0;
    for (index_t i = 0; i < 200 * layout.values; ++i) {
      double const expected =
                       ref::weight_value({f, blocks.data(), 200, layout.values}, i / layout.values, i % layout.values),
                   found = double(out[std::size_t(i)]);
      if (!std::isfinite(expected) || std::fabs(expected) > 3e38) continue;
      ++finite;
      // The last operation of an affine format may cancel: the error is of the size of what was subtracted.
      wrong += !(std::fabs(found - expected) <= 1e-6 * std::fabs(expected) + 2e-7 * 65504 * 63 * 0x1p-5);
      if (f != weight_format::q2_k && f != weight_format::q4_k && f != weight_format::q5_k &&
          f != weight_format::q4_1 && f != weight_format::q5_1)
        wrong += !(std::fabs(found - expected) <= 2e-7 * std::fabs(expected));
    }
    CHECK(wrong == 0);
    CHECK(finite > 150 * layout.values);
  }
}

TEST_CASE("quantize: numbers come back as near as the format allows, on any number of threads") {
  // Measured: the root of the mean square of what is lost of normal numbers.
  double const allowed[] = {0,    0x1p-11, 0.0018, 0.0061, 0.088, 0.080, 0.044, 0.039,
                            0.32, 0.16,    0.075,  0.037,  0.019, 0.08,  0.13};
  std::mt19937 engine(7);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> x(512 * 100);
  for (auto& v : x) v = normal(engine);
  for (auto const f : all_formats()) {
    CAPTURE(layout_of(f).name);
    exec::host_context one(1), three(3);
    auto const blocks = encoded(one, f, x, 512);
    CHECK(ref::same_bits(blocks, encoded(three, f, x, 512)));
    auto const back = decoded(one, f, blocks, 512);
    CHECK(ref::same_bits(back, decoded(three, f, blocks, 512)));
    double const error = relative_error(x, back);
    CAPTURE(error);
    CHECK(error <= allowed[std::size_t(f)]);
    CHECK(error >= 0.8 * allowed[std::size_t(f)] - 0x1p-10);
  }
}

TEST_CASE("quantize: the blocks are those of ggml's reference") {
  // Pinned when tests/parity/quantize_test.py agreed; here for every compiler and instruction set.
  exec::host_context ctx(1);
  auto x = ref::random_values(512 * 64, 11, 0.1);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= x[i] * (i / 16 % 5 == 0 ? -1.0f : 1.0f);
  std::uint64_t hash = 0;
  for (auto const f : all_formats()) hash = ref::hash(encoded(ctx, f, x, 512), hash);
  CHECK(hash == 6337067308320569743u);
}

TEST_CASE("quantize: zeros, constants, tiny and huge numbers") {
  exec::host_context ctx(1);
  for (auto const f : all_formats()) {
    CAPTURE(layout_of(f).name);
    for (float const size : {0.0f, -0.0f, 1e-44f, 1e-30f, 1e-7f, 1.0f, -3.0f, 60000.0f, 3e38f}) {
      CAPTURE(size);
      for (bool const constant : {true, false}) {
        std::vector<float> x(256, size);
        for (std::size_t i = 0; i < 256 && !constant; ++i) x[i] *= float(i % 3) - 1;
        auto const back = decoded(ctx, f, encoded(ctx, f, x, 256), 256);
        // Halves hold scales from 6e-8 to 65504; beyond, something is given, and nothing is undefined.
        if (size != 0 && (std::fabs(size) < 1e-3f || std::fabs(size) > 1000)) continue;
        for (std::size_t i = 0; i < 256; ++i) CHECK(std::fabs(back[i] - x[i]) <= 0.35f * std::fabs(size));
      }
    }
  }
}

TEST_CASE("quantize: the exponent of an MXFP4 block is exact") {
  exec::host_context ctx(1);
  for (float const most : {std::nextafterf(8.0f, 0.0f), 8.0f, 6.0f, 1e-42f}) {
    std::vector<float> x(32, 0.0f);
    x[5] = most;
    int exponent = 0;
    std::frexp(most, &exponent);
    CHECK(int(encoded(ctx, weight_format::mxfp4, x, 32)[0]) == std::max(0, exponent - 1 - 2 + 127));
  }
}

TEST_CASE("quantize: what cannot be is refused") {
  exec::host_context ctx(2);
  std::vector<float> x(512, 1.0f);
  std::vector<std::byte> out(4096);
  auto const verdict = [&](weight_format f, index_t cols) {
    return message_of([&] { ops::quantize(ctx, ops::quantize_args{x.data(), f, out.data(), 1, cols}); });
  };
  CHECK(verdict(weight_format::q8_0, 33) ==
        "tenon::quantize: rows of 33 numbers are no whole blocks of 32 (Q8_0). Fix: another format for this matrix.");
  CHECK(verdict(weight_format::q4_k, 128).find("no whole blocks of 256 (Q4_K)") != std::string::npos);
  CHECK(message_of([&] {
          ops::dequantize(ctx, ops::dequantize_args{{weight_format::q4_k, out.data(), 1, 128}, x.data()});
        }).find("tenon::dequantize: rows of 128") == 0);
  for (float const bad : {NAN, INFINITY, -INFINITY}) {
    x[300] = bad;
    auto const message = verdict(weight_format::q4_0, 512);
    CHECK(is_one_sentence(message));
    CHECK(message.find("tenon::quantize: a weight is ") == 0);
    CHECK(verdict(weight_format::bf16, 512).empty());
  }
  CHECK(verdict(weight_format::q8_0, 0).empty());
}
