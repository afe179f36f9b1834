// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::parallel: the schedule never ends; ranks wait for transfers.*Fix:
#include <tenon/parallel/schedule.hpp>
using namespace tenon::parallel;
// 1F1B in which neighbours send to each other, and wait for it, before they receive.
struct sends_first {};
template <>
struct tenon::parallel::schedule_for<sends_first> : schedule_for<tenon::one_f_one_b> {
  static constexpr program make(int stages, int rank, int micro_batches) {
    program split;
    for (auto const& i : schedule_for<tenon::one_f_one_b>::make(stages, rank, micro_batches)) {
      if (i.what != action::exchange) split.push_back(i);
      for (auto const& t : i.transfers) split.push_back({.what = action::exchange, .transfers = {t}});
    }
    return split;
  }
};
static_assert(check_schedule<sends_first, 2, 4>());
