// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The kernels that trainers call, declared as compiled elsewhere: in kernels.cpp, once for all programs. Without
/// a line here a kernel is compiled with every trainer that calls it, which is right too, but takes longer.
#include <tenon/train/host_ops.hpp>

#define TENON_KERNELS_OF(T)                                                  \
  TENON_KERNEL(activation_backward, activation_backward_args<T>)             \
  TENON_KERNEL(activation_forward, activation_forward_args<T>)               \
  TENON_KERNEL(adamw_update, adamw_update_args<T>)                           \
  TENON_KERNEL(attention_backward, attention_backward_args<T>)               \
  TENON_KERNEL(attention_forward, attention_forward_args<T>)                 \
  TENON_KERNEL(column_sum, column_sum_args<T>)                               \
  TENON_KERNEL(combine_backward, combine_backward_args<T>)                   \
  TENON_KERNEL(dispatch, dispatch_args<T>)                                   \
  TENON_KERNEL(dropout, dropout_args<T>)                                     \
  TENON_KERNEL(embedding_backward, embedding_backward_args<T>)               \
  TENON_KERNEL(embedding_forward, embedding_forward_args<T>)                 \
  TENON_KERNEL(gated_activation_backward, gated_activation_backward_args<T>) \
  TENON_KERNEL(gated_activation_forward, gated_activation_forward_args<T>)   \
  TENON_KERNEL(layer_norm_backward, layer_norm_backward_args<T>)             \
  TENON_KERNEL(layer_norm_forward, layer_norm_forward_args<T>)               \
  TENON_KERNEL(linear_cross_entropy, linear_cross_entropy_args<T>)           \
  TENON_KERNEL(rms_norm_backward, rms_norm_backward_args<T>)                 \
  TENON_KERNEL(rms_norm_forward, rms_norm_forward_args<T>)                   \
  TENON_KERNEL(rope, rope_args<T>)                                           \
  TENON_KERNEL(scale, scale_args<T>)
#define TENON_KERNELS                                                  \
  TENON_KERNELS_OF(float)                                              \
  TENON_KERNELS_OF(bf16)                                               \
  TENON_KERNEL(grad_norm, grad_norm_args)                              \
  TENON_KERNEL(sample, sample_args)                                    \
  TENON_KERNEL(route, route_args)                                      \
  TENON_KERNEL(route_backward, route_backward_args)                    \
  TENON_KERNEL(add, add_args<float, float>)                            \
  TENON_KERNEL(add, add_args<bf16, bf16>)                              \
  TENON_KERNEL(convert, convert_args<bf16, float>)                     \
  TENON_KERNEL(embedding_forward, embedding_forward_args<bf16, float>) \
  TENON_KERNEL(convert, convert_args<float, bf16>)                     \
  TENON_KERNEL(combine, combine_args<float, float>)                    \
  TENON_KERNEL(combine, combine_args<bf16, bf16>)                      \
  TENON_KERNEL(combine, combine_args<bf16, float>)                     \
  TENON_KERNEL(gemm, gemm_args<float, float, float>)                   \
  TENON_KERNEL(gemm, gemm_args<bf16, bf16, bf16>)                      \
  TENON_KERNEL(gemm, gemm_args<float, bf16, bf16>)                     \
  TENON_KERNEL(gemm, gemm_args<float, float, bf16>)

namespace tenon {
#define TENON_KERNEL(op, ...) \
  extern template void ops::run_kernel<ops::op##_t>(exec::host_context&, ops::__VA_ARGS__ const&);
TENON_KERNELS
#undef TENON_KERNEL
}  // namespace tenon
