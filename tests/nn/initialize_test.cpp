// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <tenon/nn/initialize.hpp>

using namespace tenon;

TEST_CASE("parameters begin with the mean and deviation asked for, each a function of its name and place") {
  std::vector<nn::parameter_spec> specs{{"a.weight", 300, 70, 0, {0.5f, 0}, nn::parameter_kind::matrix},
                                        {"b", 1, 40, 21008, {0, 1}, nn::parameter_kind::vector}};
  std::vector<float> p(21048, NAN), q(21048, NAN);
  nn::initialize(specs, p.data(), 1);
  double sum = 0, square = 0, fourth = 0;
  for (int i = 0; i < 21000; ++i)
    sum += p[std::size_t(i)], square += std::pow(p[std::size_t(i)], 2), fourth += std::pow(p[std::size_t(i)], 4);
  CHECK(sum / 21000 == doctest::Approx(0).scale(1).epsilon(0.015));
  CHECK(std::sqrt(square / 21000) == doctest::Approx(0.5).epsilon(0.02));
  CHECK(fourth / 21000 / std::pow(square / 21000, 2) == doctest::Approx(3).epsilon(0.08));  // a normal's kurtosis
  for (int i = 0; i < 40; ++i) CHECK(p[std::size_t(21008 + i)] == 1.0f);
  std::vector<nn::parameter_spec> alone{specs[0]};
  nn::initialize(alone, q.data(), 1);
  CHECK(std::equal(p.begin(), p.begin() + 21000, q.begin()));
  nn::initialize(alone, q.data(), 2);
  CHECK_FALSE(std::equal(p.begin(), p.begin() + 21000, q.begin()));
}
