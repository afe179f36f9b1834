// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::parallel: the schedule receives something else than what the peer sends.*Fix:
#include <tenon/parallel/schedule.hpp>
using namespace tenon::parallel;
// GPipe whose odd ranks want the last micro-batch first.
struct crossed {};
template <>
struct tenon::parallel::schedule_for<crossed> : schedule_for<tenon::gpipe> {
  static constexpr program make(int stages, int rank, int micro_batches) {
    program_builder p(stages, rank, 1);
    for (int i = 0; i < micro_batches; ++i) p.slot({{action::forward, rank % 2 ? micro_batches - 1 - i : i}});
    for (int i = 0; i < micro_batches; ++i) p.slot({{action::backward, i}});
    return p.finish();
  }
};
static_assert(check_schedule<crossed, 2, 4>());
