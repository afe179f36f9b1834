// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <span>

#include <tenon/core/parameter.hpp>
#include <tenon/ops/update.hpp>
#include <tenon/policy/optimizer.hpp>

namespace tenon::optim {

/// The numbers of an update rule; each rule reads those it knows.
struct optimizer_options {
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float epsilon = 1e-8f;
  float weight_decay = 0.1f;  ///< decoupled; of matrices and embeddings, not of biases and norms
  float momentum = 0.95f;     ///< of SGD and Muon
  bool nesterov = true;
  float adam_ratio = 0.05f;  ///< under Muon: the learning rate of what AdamW updates, over Muon's
};

/// The flat buffers that one step reads and writes; all have the layout of the parameter list.
template <class T>
struct optimizer_buffers {
  float* master = nullptr;
  float const* gradient = nullptr;
  float* first = nullptr;   ///< first moment or momentum
  float* second = nullptr;  ///< second moment; null when the rule keeps one state tensor
  T* storage = nullptr;     ///< rounded copy that blocks read; null when they read the master
};

/// What an update is told about one parameter.
template <class T>
struct update_target {
  float* parameter;
  float const* gradient;
  float* first;
  float* second;
  T* storage;
  parameter_spec const* spec;
  float decay;
};

/// One step of Rule for every parameter. @param step 1-based @param gradient_scale multiplies every gradient (clipping)
template <OptimizerPolicy Rule, class Context, class T>
void update(Context& context, std::span<parameter_spec const> specs, optimizer_buffers<T> const& buffers,
            optimizer_options const& options, float learning_rate, index_t step, float gradient_scale) {
  for (auto const& spec : specs) {
    index_t const at = spec.offset;
    update_target<T> const target{buffers.master + at,
                                  buffers.gradient + at,
                                  buffers.first + at,
                                  buffers.second ? buffers.second + at : nullptr,
                                  buffers.storage ? buffers.storage + at : nullptr,
                                  &spec,
                                  spec.kind == parameter_kind::vector ? 0 : options.weight_decay};
    bool const muon = std::same_as<Rule, optimizer::muon>, matrix = spec.kind == parameter_kind::matrix;
    if constexpr (std::same_as<Rule, optimizer::lion>) {
      ops::lion_update(context, ops::lion_update_args<T>{.parameter = target.parameter,
                                                         .gradient = target.gradient,
                                                         .m = target.first,
                                                         .storage = target.storage,
                                                         .n = spec.size(),
                                                         .learning_rate = learning_rate,
                                                         .beta1 = options.beta1,
                                                         .beta2 = options.beta2,
                                                         .weight_decay = target.decay,
                                                         .gradient_scale = gradient_scale});
    } else if constexpr (std::same_as<Rule, optimizer::sgd>) {
      ops::sgd_update(context, ops::sgd_update_args<T>{.parameter = target.parameter,
                                                       .gradient = target.gradient,
                                                       .m = target.first,
                                                       .storage = target.storage,
                                                       .n = spec.size(),
                                                       .learning_rate = learning_rate,
                                                       .momentum = options.momentum,
                                                       .nesterov = options.nesterov,
                                                       .weight_decay = target.decay,
                                                       .gradient_scale = gradient_scale});
    } else if (muon && matrix) {
      ops::muon_update(context, ops::muon_update_args<T>{.parameter = target.parameter,
                                                         .gradient = target.gradient,
                                                         .m = target.first,
                                                         .storage = target.storage,
                                                         .rows = spec.rows,
                                                         .cols = spec.cols,
                                                         .learning_rate = learning_rate,
                                                         .momentum = options.momentum,
                                                         .nesterov = options.nesterov,
                                                         .weight_decay = target.decay,
                                                         .gradient_scale = gradient_scale});
    } else {
      ops::adamw_update(
          context, ops::adamw_update_args<T>{.parameter = target.parameter,
                                             .gradient = target.gradient,
                                             .m = target.first,
                                             .v = target.second,
                                             .storage = target.storage,
                                             .n = spec.size(),
                                             .learning_rate = muon ? learning_rate * options.adam_ratio : learning_rate,
                                             .beta1 = options.beta1,
                                             .beta2 = options.beta2,
                                             .epsilon = options.epsilon,
                                             .weight_decay = target.decay,
                                             .step = step,
                                             .gradient_scale = gradient_scale});
    }
  }
}

}  // namespace tenon::optim
