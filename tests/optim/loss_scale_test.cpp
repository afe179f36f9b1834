// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <limits>

#include <tenon/optim/loss_scale.hpp>

using tenon::optim::loss_scale;

TEST_CASE("the scale halves on overflow and doubles after enough good steps") {
  loss_scale s;
  float const begin = s.scale;
  CHECK_FALSE(s.update(std::numeric_limits<double>::infinity()));
  CHECK_FALSE(s.update(std::numeric_limits<double>::quiet_NaN()));
  CHECK(s.scale == begin / 4);
  for (int i = 0; i < loss_scale::growth_interval - 1; ++i) CHECK(s.update(1.0));
  CHECK(s.scale == begin / 4);
  CHECK(s.update(1.0));
  CHECK(s.scale == begin / 2);
  for (int i = 0; i < 100; ++i) s.update(std::numeric_limits<double>::infinity());
  CHECK(s.scale == 1.0f);
}
