// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <concepts>
#include <cstdint>

#include <tenon/policy/axis.hpp>

namespace tenon {
namespace batching {

/// Requests are served in the order in which they came, and one of higher priority as if it had come `StepsPerPriority`
/// steps earlier for each. So only requests of the next few steps can overtake one, and none starves.
template <std::int64_t StepsPerPriority = 1000>
  requires(StepsPerPriority >= 0)
struct first_come {
  using axis = batching_axis;
  static constexpr std::int64_t rank(std::int64_t arrival_step, int priority) {
    return arrival_step - StepsPerPriority * priority;
  }
};

}  // namespace batching

namespace preemption {

/// A sequence that makes room gives its pages back; later they are computed again. The default.
struct recompute {
  using axis = preemption_axis;
  static constexpr bool swaps = false;
};
/// What its pages hold is put elsewhere and brought back later; computed again where there is no room for it.
struct swap {
  using axis = preemption_axis;
  static constexpr bool swaps = true;
};

}  // namespace preemption

/// In which order requests get tokens and pages: lower ranks first. A rank never changes. Whatever comes with a lower
/// rank than a request that waits goes before it: of that there must be an end, or the request starves.
template <class P>
concept BatchingPolicy = PolicyOn<P, batching_axis> && requires(std::int64_t step, int priority) {
  { P::rank(step, priority) } -> std::same_as<std::int64_t>;
};
/// What becomes of a sequence that must make room for one of lower rank.
template <class P>
concept PreemptionPolicy = PolicyOn<P, preemption_axis> && requires {
  { P::swaps } -> std::convertible_to<bool>;
};
static_assert(BatchingPolicy<batching::first_come<>> && PreemptionPolicy<preemption::recompute> &&
              PreemptionPolicy<preemption::swap>);

}  // namespace tenon
