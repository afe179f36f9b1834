// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/core/view.hpp>
#include <tenon/exec/host/math.hpp>

namespace tenon::optim {

enum class decay_kind { constant, linear, cosine, warmup_stable_decay };

/// The learning rate as a function of the step: linear warm-up from 0, then a decay to `floor` x peak.
/// @source cosine: Loshchilov and Hutter 2017, arXiv:1608.03983; warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395
struct schedule {
  decay_kind decay = decay_kind::cosine;
  index_t warmup_steps = 0;
  index_t total_steps = 0;  ///< the decay ends here; 0: constant after the warm-up
  index_t decay_steps = 0;  ///< of warmup_stable_decay: the last steps that decay; 0: a tenth of the total
  float floor = 0.1f;       ///< the last rate over the peak

  /// Factor of the peak rate at a 0-based step.
  float factor(index_t step) const {
    if (step < warmup_steps) return float(step + 1) / float(warmup_steps);
    if (total_steps == 0 || decay == decay_kind::constant) return 1;
    index_t begin = warmup_steps, end = total_steps;
    if (decay == decay_kind::warmup_stable_decay) {
      index_t const length = decay_steps ? decay_steps : (total_steps + 9) / 10;
      begin = end - length > warmup_steps ? end - length : warmup_steps;
    }
    if (step <= begin) return 1;
    if (step >= end) return floor;
    float const progress = float(step - begin) / float(end - begin);
    float left = 1 - progress;
    if (decay == decay_kind::cosine) {
      float lane[lanes];
      simd::store(lane, simd::cos(simd::broadcast(3.14159265358979f * progress)));
      left = (1 + lane[0]) * 0.5f;
    }
    return std::fma(1 - floor, left, floor);
  }
};

}  // namespace tenon::optim
