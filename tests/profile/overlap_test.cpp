// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/profile/overlap.hpp>
#include <tenon/profile/table.hpp>

using namespace tenon::profile;

TEST_CASE("overlap: communication while operations run, nested and touching ranges counted once, phases not") {
  rank_recorder r;
  work const some{1, 1};
  r.computation.add({"gemm", 1'000'000'000, 2'000'000'000, some, 2});
  r.computation.add({"attention", 500'000'000, 2'000'000'000, some, 1});
  r.computation.add({"norm", 2'500'000'000, 3'000'000'000, some, 1});
  r.computation.add({"wait", 3'000'000'000, 5'000'000'000, {}, 1});
  r.computation.add({"norm", 5'000'000'000, 9'000'000'000, some, 1});
  r.computation.add({"backward", 0, 9'000'000'000, {}, 0});
  recorder& c = r.background.emplace_back();
  c.add({"all_gather", 0, 1'000'000'000, some, 1});
  c.add({"reduce_scatter", 0, 4'000'000'000, some, 0});           // 1.5 + 0.5 s
  c.add({"all_gather", 6'000'000'000, 7'000'000'000, some, 0});   // 1 s
  c.add({"all_gather", 8'000'000'000, 10'000'000'000, some, 0});  // 1 s
  c.add({"barrier", 10'000'000'000, 20'000'000'000, {}, 0});
  overlap_time const t = overlap(r.computation, c);
  CHECK(t.seconds == doctest::Approx(7));
  CHECK(t.hidden_seconds == doctest::Approx(4));
  CHECK(t.hidden_share() == doctest::Approx(4.0 / 7));
  CHECK(overlap(c, {}).hidden_share() == 0);

  std::string const text = table(r);
  CHECK(text.find("communication beside it\n") != std::string::npos);
  CHECK(text.find("4000.0 of 7000.0 ms (57%) while operations compute\n") != std::string::npos);
  CHECK(text.find("waited for") == std::string::npos);
}
