// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::parallel: the schedule runs a backward before its forward.*Fix:
#include <tenon/parallel/schedule.hpp>
using namespace tenon::parallel;
// The two passes the wrong way round.
struct backwards {};
template <>
struct tenon::parallel::schedule_for<backwards> : schedule_for<tenon::gpipe> {
  static constexpr program make(int stages, int rank, int micro_batches) {
    program_builder p(stages, rank, 1);
    for (int i = 0; i < micro_batches; ++i) p.slot({{action::backward, i}});
    for (int i = 0; i < micro_batches; ++i) p.slot({{action::forward, i}});
    return p.finish();
  }
};
static_assert(check_schedule<backwards, 2, 4>());
