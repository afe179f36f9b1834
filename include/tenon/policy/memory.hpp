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
/// Where offloaded state lives: the memory of the host, which is a second one for other devices only, or a file in
/// `train_options::offload_folder`.
struct host_memory {};
struct file_backed {};
/// What is offloaded beside the optimizer's state.
struct activations {};
/// The optimizer's state lives in a second memory, and master weights where blocks read others; bucket by bucket it comes
/// into the first one for the update. With `activations`, so does what backward reads, layer by layer.
template <class Where, class... Also>
  requires(std::same_as<Also, activations>&&...)
struct offload {
  using axis = memory_axis;
  static constexpr recompute policy = recompute::nothing;
};

template <class P>
inline constexpr bool is_in_host_memory = false;
template <class... Also>
inline constexpr bool is_in_host_memory<offload<host_memory, Also...>> = true;
template <class P>
inline constexpr bool is_in_file = false;
template <class... Also>
inline constexpr bool is_in_file<offload<file_backed, Also...>> = true;
template <class P>
inline constexpr bool has_activations_in_file = false;
template <>
inline constexpr bool has_activations_in_file<offload<file_backed, activations>> = true;

}  // namespace tenon::memory

namespace tenon {
template <class P>
concept MemoryPolicy = PolicyOn<P, memory_axis> && requires {
  { P::policy } -> std::convertible_to<memory::recompute>;
};
static_assert(MemoryPolicy<memory::keep> && MemoryPolicy<memory::recompute_selective> &&
              MemoryPolicy<memory::recompute_full> && MemoryPolicy<memory::offload<memory::host_memory>>);
}  // namespace tenon
