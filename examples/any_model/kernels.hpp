// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The kernels that an engine calls, declared as compiled elsewhere: in kernels.cpp, for speed. What calls them is
/// compiled for size.
#include <tenon/infer/host_ops.hpp>
#include <tenon/ops/host/attention_forward.hpp>

#define TENON_KERNELS                                                          \
  TENON_KERNEL(activation_forward, activation_forward_args<float>)             \
  TENON_KERNEL(add, add_args<float, float>)                                    \
  TENON_KERNEL(attention_forward, attention_forward_args<float>)               \
  TENON_KERNEL(combine, combine_args<float, float>)                            \
  TENON_KERNEL(dispatch, dispatch_args<float>)                                 \
  TENON_KERNEL(gated_activation_forward, gated_activation_forward_args<float>) \
  TENON_KERNEL(gemm, gemm_args<float, float, float>)                           \
  TENON_KERNEL(kv_write, kv_write_args<float, float>)                          \
  TENON_KERNEL(layer_norm_forward, layer_norm_forward_args<float>)             \
  TENON_KERNEL(linear, linear_args)                                            \
  TENON_KERNEL(paged_attention, paged_attention_args<float, float>)            \
  TENON_KERNEL(quantize_rows, quantize_rows_args)                              \
  TENON_KERNEL(rms_norm_forward, rms_norm_forward_args<float>)                 \
  TENON_KERNEL(rope, rope_args<float>)                                         \
  TENON_KERNEL(route, route_args)                                              \
  TENON_KERNEL(sample, sample_args)                                            \
  TENON_KERNEL(table_rows, table_rows_args)

namespace tenon {
#define TENON_KERNEL(op, ...) \
  extern template void ops::run_kernel<ops::op##_t>(exec::host_context&, ops::__VA_ARGS__ const&);
TENON_KERNELS
#undef TENON_KERNEL
}  // namespace tenon
