// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cmath>

#include <tenon/core/view.hpp>

namespace tenon::optim {

/// Dynamic loss scaling for fp16: the scale halves when a gradient overflows (and that step is skipped), and doubles
/// after `growth_interval` good steps. Always a power of two, so scaling rounds nothing that is not subnormal.
/// @source Micikevicius et al. 2018, arXiv:1710.03740
struct loss_scale {
  float scale = 65536.0f;
  index_t good_steps = 0;
  static constexpr index_t growth_interval = 2000;
  static constexpr float largest = 16777216.0f;

  /// Takes note of a step's gradient norm; false when the step must be skipped.
  bool update(double gradient_norm) {
    if (!std::isfinite(gradient_norm)) {
      scale = scale > 1 ? scale * 0.5f : 1;
      good_steps = 0;
      return false;
    }
    if (++good_steps >= growth_interval) {
      good_steps = 0;
      if (scale < largest) scale *= 2;
    }
    return true;
  }
};

}  // namespace tenon::optim
