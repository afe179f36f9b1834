// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <string>

#include <fuzz/mutate.hpp>
#include <tenon/train/metrics.hpp>

TEST_CASE("metrics: a mutated line is refused, or what is read from it reads back as the same") {
  std::string const seed =
      "{\"step\":120,\"loss\":2.5,\"learning_rate\":0.001,\"grad_norm\":null,\"tokens_per_second\":1e4,\"validation_"
      "loss\":3}";
  mutator mutate(7);
  int good = 0;
  for (int i = 0; i < 50000; ++i) {
    std::string const line = mutate(seed);
    std::unique_ptr<char[]> const copy(new char[line.size()]);
    line.copy(copy.get(), line.size());
    auto const m = tenon::train::parse_metrics_line({copy.get(), line.size()});
    if (!m) continue;
    ++good;
    std::string const again = tenon::metrics_line(*m);
    auto const n = tenon::train::parse_metrics_line(std::string_view(again).substr(0, again.size() - 1));
    REQUIRE(n);
    REQUIRE(tenon::metrics_line(*n) == again);
    REQUIRE(n->step == m->step);
  }
  CHECK(good > 1000);
}
