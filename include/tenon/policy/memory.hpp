// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/policy/axis.hpp>

namespace tenon::memory {

/// What of a layer is still there when backward comes.
enum class recompute { nothing, cheap_parts, whole_layers };

/// Everything that backward reads is kept. The default.
struct keep {
  using axis = memory_axis;
  static constexpr recompute policy = recompute::nothing;
};
/// Norm and activation outputs are computed again in backward: much less memory for under 2 % more time.
/// @source Korthikanti et al. 2022, arXiv:2205.05198
struct recompute_selective {
  using axis = memory_axis;
  static constexpr recompute policy = recompute::cheap_parts;
};
/// Only each layer's input is kept; backward runs the layer forward once more.
/// @source Chen et al. 2016, arXiv:1604.06174
struct recompute_full {
  using axis = memory_axis;
  static constexpr recompute policy = recompute::whole_layers;
};
/// Where offloaded state lives.
struct host_memory {};
struct file_backed {};
/// Optimizer state lives in a second memory. The type is here; its machinery comes with the parallel release.
template <class Where>
struct offload {
  using axis = memory_axis;
  static constexpr recompute policy = recompute::nothing;
};

}  // namespace tenon::memory

namespace tenon {
template <class P>
concept MemoryPolicy = PolicyOn<P, memory_axis> && requires {
  { P::policy } -> std::convertible_to<memory::recompute>;
};
static_assert(MemoryPolicy<memory::keep> && MemoryPolicy<memory::recompute_selective> &&
              MemoryPolicy<memory::recompute_full> && MemoryPolicy<memory::offload<memory::host_memory>>);
}  // namespace tenon
