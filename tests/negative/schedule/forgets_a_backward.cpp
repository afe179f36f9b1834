// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::parallel: the schedule forgets a forward or a backward.*Fix:
#include <tenon/parallel/schedule.hpp>
using namespace tenon::parallel;
// GPipe without the last backward.
struct forgets {};
template <>
struct tenon::parallel::schedule_for<forgets> : schedule_for<tenon::gpipe> {
  static constexpr program make(int stages, int rank, int micro_batches) {
    program_builder p(stages, rank, 1);
    for (int i = 0; i < micro_batches; ++i) p.slot({{action::forward, i}});
    for (int i = 0; i + 1 < micro_batches; ++i) p.slot({{action::backward, i}});
    return p.finish();
  }
};
static_assert(check_schedule<forgets, 2, 4>());
