// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/policy/axis.hpp>

namespace tenon {
/// Which update rule a trainer uses; numbers such as rates are run-time options.
template <class P>
concept OptimizerPolicy = PolicyOn<P, optimizer_axis> && requires {
  { P::state_tensors } -> std::convertible_to<int>;
  { P::name } -> std::convertible_to<char const*>;
};
namespace optimizer {
/// @source Loshchilov and Hutter 2019, arXiv:1711.05101. The default.
struct adamw {
  using axis = optimizer_axis;
  static constexpr int state_tensors = 2;  ///< fp32 values kept per parameter
  static constexpr char const* name = "adamw";
};
/// @source Chen et al. 2023, arXiv:2302.06675, algorithm 2
struct lion {
  using axis = optimizer_axis;
  static constexpr int state_tensors = 1;
  static constexpr char const* name = "lion";
};
/// Muon for the hidden matrices, AdamW for embeddings, vectors and the head. @source Jordan et al. 2024, "Muon"
struct muon {
  using axis = optimizer_axis;
  static constexpr int state_tensors = 2;
  static constexpr char const* name = "muon";
};
/// With momentum. @source Sutskever et al. 2013
struct sgd {
  using axis = optimizer_axis;
  static constexpr int state_tensors = 1;
  static constexpr char const* name = "sgd";
};
static_assert(OptimizerPolicy<adamw> && OptimizerPolicy<lion> && OptimizerPolicy<muon> && OptimizerPolicy<sgd>);
}  // namespace optimizer
}  // namespace tenon
