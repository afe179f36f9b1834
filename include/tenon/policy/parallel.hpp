// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The parallel axes. Their degrees multiply to a mesh of ranks; a degree of one costs nothing.
#include <tenon/core/view.hpp>
#include <tenon/policy/axis.hpp>

namespace tenon {

/// Data parallelism: each of N ranks holds the model and works on its own samples. `data<dynamic>`: N at start-up.
template <index_t N>
  requires(N >= 1 || N == dynamic)
struct data {
  using axis = data_axis;
  static constexpr index_t degree = N;
};

/// Hybrid sharding for `zero<3, hybrid<M>>`: shards within groups of M ranks, copies between groups (HSDP).
template <index_t M>
  requires(M >= 1)
struct hybrid {
  static constexpr index_t group = M;
};
/// What the data-parallel ranks share out: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters (FSDP).
/// @source Rajbhandari et al. 2020, arXiv:1910.02054
template <int Stage, class Sharding = hybrid<1>>
  requires(Stage >= 0 && Stage <= 3)
struct zero {
  using axis = zero_axis;
  using sharding = Sharding;
  static constexpr int stage = Stage;
};

/// Tensor parallelism: each layer's matrices are cut over N ranks. @source Shoeybi et al. 2019, arXiv:1909.08053
template <index_t N>
  requires(N >= 1 || N == dynamic)
struct tensor_parallel {
  using axis = tensor_axis;
  static constexpr index_t degree = N;
};
template <index_t N>
using tensor = tensor_parallel<N>;

/// Norms and residuals are cut along the sequence over the tensor ranks. @source Korthikanti et al. 2022, arXiv:2205.05198
struct sequence_parallel {
  using axis = sequence_axis;
};

/// How context parallelism moves keys and values.
struct ring {};
struct all_to_all {};
struct all_gather {};
/// Context parallelism: each sequence is cut over N ranks. @source Liu et al. 2023, arXiv:2310.01889 (ring); Jacobs et
/// al. 2023, arXiv:2309.14509 (all-to-all); Grattafiori et al. 2024, arXiv:2407.21783 (all-gather)
template <index_t N, class Exchange = ring>
  requires((N >= 1 || N == dynamic) &&
           (std::same_as<Exchange, ring> || std::same_as<Exchange, all_to_all> || std::same_as<Exchange, all_gather>))
struct context {
  using axis = context_axis;
  using exchange = Exchange;
  static constexpr index_t degree = N;
};

/// Pipeline schedules; what each does is in `parallel::schedule_for`, which can be specialised for others.
struct gpipe {};
struct one_f_one_b {};
template <int VirtualStages>
  requires(VirtualStages >= 2)
struct interleaved {};
struct zero_bubble {};
/// Pipeline parallelism: the layers are cut over N ranks, which work on different micro-batches at a time.
template <index_t N, class Schedule = one_f_one_b>
  requires(N >= 1 || N == dynamic)
struct pipeline {
  using axis = pipeline_axis;
  using schedule = Schedule;
  static constexpr index_t degree = N;
};

/// Expert parallelism: the experts of a mixture are shared out over N ranks.
template <index_t N>
  requires(N >= 1 || N == dynamic)
struct expert {
  using axis = expert_axis;
  static constexpr index_t degree = N;
};

static_assert(PolicyOn<data<2>, data_axis> && PolicyOn<zero<1>, zero_axis> && PolicyOn<tensor<2>, tensor_axis>);

}  // namespace tenon
