// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/optim/schedule.hpp>

using namespace tenon::optim;

TEST_CASE("warm-up rises linearly to the peak") {
  schedule const s{.decay = decay_kind::constant, .warmup_steps = 4};
  CHECK(s.factor(0) == 0.25f);
  CHECK(s.factor(3) == 1.0f);
  CHECK(s.factor(1000) == 1.0f);
}
TEST_CASE("decays begin at the peak and end at the floor") {
  for (auto kind : {decay_kind::linear, decay_kind::cosine, decay_kind::warmup_stable_decay}) {
    schedule const s{.decay = kind, .warmup_steps = 10, .total_steps = 110, .floor = 0.1f};
    CHECK(s.factor(10) == 1.0f);
    CHECK(s.factor(110) == 0.1f);
    CHECK(s.factor(500) == 0.1f);
    for (int i = 10; i < 110; ++i) CHECK(s.factor(i + 1) <= s.factor(i));
  }
  schedule const linear{.decay = decay_kind::linear, .total_steps = 100, .floor = 0};
  CHECK(linear.factor(50) == doctest::Approx(0.5));
  schedule const cosine{.decay = decay_kind::cosine, .total_steps = 100, .floor = 0.2f};
  CHECK(cosine.factor(25) == doctest::Approx(0.2 + 0.8 * 0.5 * (1 + std::cos(3.14159265 * 0.25))).epsilon(1e-5));
  schedule const stable{.decay = decay_kind::warmup_stable_decay, .total_steps = 100, .decay_steps = 20, .floor = 0};
  CHECK(stable.factor(80) == 1.0f);
  CHECK(stable.factor(90) == doctest::Approx(0.5));
}
