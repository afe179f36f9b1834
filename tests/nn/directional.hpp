// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Gradients of a block against differences of a scalar, along the gradient itself.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <tenon/nn/parameter.hpp>
#include <tenon/nn/pass.hpp>
#include <tenon/train/host_ops.hpp>

namespace directional {

using namespace tenon;

/// A pass over `samples` sequences of `length` tokens, with everything it refers to.
template <class Memory = memory::keep>
struct harness {
  using pass_type = nn::pass<exec::host_context, arithmetic::bitwise, Memory>;
  exec::host_context exec{2};
  arena saved;
  std::vector<index_t> positions, begins;
  index_t samples, length;
  harness(index_t n, index_t t) : samples(n), length(t) {
    for (index_t i = 0; i < n * t; ++i) positions.push_back(i % t);
    for (index_t i = 0; i <= n; ++i) begins.push_back(i * t);
  }
  pass_type pass() { return {exec, saved, positions, begins, length, 0, 1, 1, true}; }
  index_t tokens() const { return samples * length; }
};

inline std::vector<float> random_values(index_t n, char const* name, float scale) {
  std::vector<float> v(static_cast<std::size_t>(n));
  random_stream const stream(3, name);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = (stream.uniform(0, i) * 2 - 1) * scale;
  return v;
}

/// Checks d(sum of w * y)/dx and d/dparameters of a block.
/// @param forward (pass, parameters, x, y) and @param backward (pass, parameters, gradients, x, dy, dx) call the block
template <class Harness, class Block, class Forward, class Backward>
void check(Harness& h, Block const& block, index_t in, index_t out, Forward&& forward, Backward&& backward) {
  std::vector<nn::parameter_spec> specs;
  nn::binder<float const> describe(&specs);
  block.bind(describe);
  auto parameters = random_values(describe.size(), "parameters", 0.5f);
  auto x = random_values(h.tokens() * in, "x", 1.0f);
  auto const w = random_values(h.tokens() * out, "w", 1.0f);
  std::vector<float> y(w.size(), NAN), dx(x.size(), NAN), gradients(parameters.size(), NAN);
  nn::binder<float const> read(parameters.data());
  auto const p = block.bind(read);
  nn::binder<float> write(gradients.data());
  auto const g = block.bind(write);
  auto value = [&] {
    auto const mark = h.saved.mark();
    auto pass = h.pass();
    forward(pass, p, matrix<float const>(x.data(), h.tokens(), in), matrix(y.data(), h.tokens(), out));
    h.saved.release(mark);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += double(w[i]) * double(y[i]);
    return sum;
  };
  {
    auto pass = h.pass();
    auto const mark = h.saved.mark();
    forward(pass, p, matrix<float const>(x.data(), h.tokens(), in), matrix(y.data(), h.tokens(), out));
    backward(pass, p, g, matrix<float const>(x.data(), h.tokens(), in), matrix<float const>(w.data(), h.tokens(), out),
             matrix(dx.data(), h.tokens(), in));
    h.saved.release(mark);
  }
  auto along = [&](std::string const& name, float* values, float const* gradient, index_t n) {
    double square = 0;
    for (index_t i = 0; i < n; ++i) square += double(gradient[i]) * double(gradient[i]);
    CAPTURE(name);
    REQUIRE(square > 0);
    std::vector<float> const before(values, values + n);
    double const step = 0.01 / std::sqrt(square);
    double side[2];
    for (int s = 0; s < 2; ++s) {
      for (index_t i = 0; i < n; ++i) values[i] = before[std::size_t(i)] + float(s ? -step : step) * gradient[i];
      side[s] = value();
    }
    std::copy(before.begin(), before.end(), values);
    CHECK((side[0] - side[1]) / (2 * step) == doctest::Approx(square).epsilon(0.01));
  };
  along("x", x.data(), dx.data(), h.tokens() * in);
  for (auto const& s : specs) along(s.name, parameters.data() + s.offset, gradients.data() + s.offset, s.size());
}

}  // namespace directional
