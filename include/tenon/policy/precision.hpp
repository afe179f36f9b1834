// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/core/element.hpp>
#include <tenon/policy/axis.hpp>

namespace tenon {

/// Which element type each kind of number has. `param_type`: weights as blocks read them and activations;
/// `master_type`: weights as the optimizer keeps them; `accum_type`: sums and gradients.
template <class P>
concept Precision = PolicyOn<P, precision_axis> && Element<typename P::param_type> &&
    std::same_as<typename P::master_type, float> && std::same_as<typename P::accum_type, float> && requires {
  { P::scales_loss } -> std::convertible_to<bool>;
  { P::name } -> std::convertible_to<char const*>;
};

namespace precision {
/// Everything in fp32. The default.
struct fp32 {
  using axis = precision_axis;
  using param_type = float;
  using master_type = float;
  using accum_type = float;
  static constexpr bool scales_loss = false;
  static constexpr char const* name = "fp32";
};
/// bf16 weights and activations, fp32 master weights, sums and gradients.
/// @source Micikevicius et al. 2018, arXiv:1710.03740, with bf16 in place of fp16
struct bf16_mixed {
  using axis = precision_axis;
  using param_type = bf16;
  using master_type = float;
  using accum_type = float;
  static constexpr bool scales_loss = false;
  static constexpr char const* name = "bf16_mixed";
};
/// fp16 weights and activations, fp32 master weights, sums and gradients; the loss is scaled dynamically.
/// @source Micikevicius et al. 2018, arXiv:1710.03740
struct fp16_mixed {
  using axis = precision_axis;
  using param_type = fp16;
  using master_type = float;
  using accum_type = float;
  static constexpr bool scales_loss = true;
  static constexpr char const* name = "fp16_mixed";
};
/// FP8 products under bf16. The type is here; its kernels come with the device release.
struct fp8_hybrid {
  using axis = precision_axis;
  using param_type = fp8_e4m3;
  using master_type = float;
  using accum_type = float;
  static constexpr bool scales_loss = false;
  static constexpr char const* name = "fp8_hybrid";
};
static_assert(Precision<fp32> && Precision<bf16_mixed> && Precision<fp16_mixed> && Precision<fp8_hybrid>);
}  // namespace precision
}  // namespace tenon
