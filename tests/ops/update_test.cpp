// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/ops/host/update.hpp>

#include "ref/update.hpp"
#include "ref/values.hpp"

using namespace tenon;

namespace {

constexpr ref::update_numbers numbers{.learning_rate = 0.01f,
                                      .beta1 = 0.9f,
                                      .beta2 = 0.95f,
                                      .epsilon = 1e-6f,
                                      .weight_decay = 0.1f,
                                      .momentum = 0.9f,
                                      .gradient_scale = 0.5f,
                                      .nesterov = true};

template <class T>
struct problem {
  index_t n;
  std::vector<float> parameter = ref::random_values(n, 1), m = ref::random_values(n, 2, 0.1), v = squares();
  std::vector<T> storage = ref::poison<T>(n);
  std::vector<double> p = ref::as_double(parameter), md = ref::as_double(m), vd = ref::as_double(v);
  exec::host_context ctx{2};

  std::vector<float> gradient(int step) const { return ref::random_values(n, unsigned(10 + step)); }
  void check(double tolerance) {
    CHECK(ref::error(parameter, p) < tolerance);
    CHECK(ref::error(m, md) < tolerance);
    bool rounded = true;
    for (std::size_t i = 0; i < storage.size(); ++i) rounded = rounded && float(storage[i]) == float(T(parameter[i]));
    CHECK(rounded);
  }

 private:
  std::vector<float> squares() const {
    auto s = ref::random_values(n, 3, 0.1);
    for (auto& x : s) x *= x;
    return s;
  }
};
constexpr index_t sizes[] = {1, 15, 16, 1003, 70001};

}  // namespace

TEST_CASE_TEMPLATE("AdamW follows its reference for some steps", T, float, bf16, fp16) {
  for (index_t const n : sizes) {
    problem<T> s{n};
    for (int step = 1; step <= 4; ++step) {
      auto const g = s.gradient(step);
      ops::adamw_update(s.ctx, ops::adamw_update_args<T>{.parameter = s.parameter.data(),
                                                         .gradient = g.data(),
                                                         .m = s.m.data(),
                                                         .v = s.v.data(),
                                                         .storage = s.storage.data(),
                                                         .n = n,
                                                         .learning_rate = float(numbers.learning_rate),
                                                         .beta1 = float(numbers.beta1),
                                                         .beta2 = float(numbers.beta2),
                                                         .epsilon = float(numbers.epsilon),
                                                         .weight_decay = float(numbers.weight_decay),
                                                         .step = step,
                                                         .gradient_scale = float(numbers.gradient_scale)});
      ref::adamw(s.p, ref::as_double(g), s.md, s.vd, numbers, step);
    }
    s.check(1e-6);
    CHECK(ref::error(s.v, s.vd) < 1e-6);
  }
}

TEST_CASE_TEMPLATE("Lion and SGD follow their references", T, float, bf16) {
  for (index_t const n : sizes) {
    problem<T> lion{n}, sgd{n};
    for (int step = 1; step <= 3; ++step) {
      auto const g = lion.gradient(step);
      ops::lion_update(lion.ctx, ops::lion_update_args<T>{.parameter = lion.parameter.data(),
                                                          .gradient = g.data(),
                                                          .m = lion.m.data(),
                                                          .storage = lion.storage.data(),
                                                          .n = n,
                                                          .learning_rate = float(numbers.learning_rate),
                                                          .beta1 = float(numbers.beta1),
                                                          .beta2 = float(numbers.beta2),
                                                          .weight_decay = float(numbers.weight_decay),
                                                          .gradient_scale = float(numbers.gradient_scale)});
      ref::lion(lion.p, ref::as_double(g), lion.md, numbers);
      ops::sgd_update(sgd.ctx, ops::sgd_update_args<T>{.parameter = sgd.parameter.data(),
                                                       .gradient = g.data(),
                                                       .m = sgd.m.data(),
                                                       .storage = sgd.storage.data(),
                                                       .n = n,
                                                       .learning_rate = float(numbers.learning_rate),
                                                       .momentum = float(numbers.momentum),
                                                       .nesterov = step > 1,
                                                       .weight_decay = float(numbers.weight_decay),
                                                       .gradient_scale = float(numbers.gradient_scale)});
      auto with = numbers;
      with.nesterov = step > 1;
      ref::sgd(sgd.p, ref::as_double(g), sgd.md, with);
    }
    lion.check(1e-6);
    sgd.check(2e-6);
  }
}

TEST_CASE("Lion does not move where the direction is zero, and NaN is not swallowed") {
  exec::host_context ctx(1);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  float p[4] = {1, 1, 1, 1}, m[4] = {0, 0, 0, 0};
  float const g[4] = {0, 2, -3, nan};
  ops::lion_update(ctx,
                   ops::lion_update_args<float>{.parameter = p, .gradient = g, .m = m, .n = 4, .learning_rate = 0.25f});
  CHECK(p[0] == 1.0f);
  CHECK(p[1] == 0.75f);
  CHECK(p[2] == 1.25f);
  CHECK(p[3] != p[3]);
}

TEST_CASE("SGD without momentum needs no buffer") {
  exec::host_context ctx(1);
  float p[3] = {1, 2, 3};
  float const g[3] = {1, 1, 2};
  ops::sgd_update_args<float> a{.parameter = p, .gradient = g, .n = 3, .learning_rate = 0.5f};
  ops::sgd_update(ctx, a);
  CHECK(p[2] == 2.0f);
  a.momentum = 0.9f;
  CHECK_THROWS_AS(ops::sgd_update(ctx, a), argument_error);
}

TEST_CASE_TEMPLATE("Muon follows its reference, wide and tall", T, float, bf16) {
  for (auto const& shape : {std::array<index_t, 2>{1, 1}, {1, 9}, {5, 3}, {7, 16}, {37, 20}, {24, 50}}) {
    index_t const rows = shape[0], cols = shape[1];
    CAPTURE(rows);
    problem<T> s{rows * cols};
    for (int step = 1; step <= 2; ++step) {
      auto const g = s.gradient(step);
      ops::muon_update(s.ctx, ops::muon_update_args<T>{.parameter = s.parameter.data(),
                                                       .gradient = g.data(),
                                                       .m = s.m.data(),
                                                       .storage = s.storage.data(),
                                                       .rows = rows,
                                                       .cols = cols,
                                                       .learning_rate = 1.0f,
                                                       .momentum = float(numbers.momentum),
                                                       .nesterov = step > 1,
                                                       .weight_decay = float(numbers.weight_decay),
                                                       .gradient_scale = float(numbers.gradient_scale)});
      auto with = numbers;
      with.learning_rate = 1.0, with.nesterov = step > 1;
      ref::muon(s.p, ref::as_double(g), s.md, std::size_t(rows), std::size_t(cols), with);
    }
    s.check(5e-5);
  }
}

TEST_CASE("threads change no bit of an update") {
  std::uint64_t expected = 0;
  for (int const threads : {1, 2, 5}) {
    auto p = ref::random_values(150001, 1), m = ref::random_values(150001, 2), v = m;
    for (auto& x : v) x *= x;
    auto const g = ref::random_values(150001, 3);
    exec::host_context ctx(threads);
    ops::adamw_update(ctx, ops::adamw_update_args<float>{.parameter = p.data(),
                                                         .gradient = g.data(),
                                                         .m = m.data(),
                                                         .v = v.data(),
                                                         .n = 150001});
    auto const h = ref::hash(p, ref::hash(m, ref::hash(v)));
    if (!expected) expected = h;
    CHECK(h == expected);
  }
}
