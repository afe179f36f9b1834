// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/ops/activation.hpp>
#include <tenon/ops/host/activation_math.hpp>
#include <tenon/ops/host/rows.hpp>

namespace tenon::ops {

template <>
struct kernel_for<activation_forward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, activation_forward_args<T> const& a) {
    index_t const rows = a.x.extent(0), cols = a.x.extent(1);
    detail::require(detail::same_shape(a.x, rows, cols) && detail::same_shape(a.out, rows, cols),
                    "tenon::activation_forward: out is not shaped as x, or columns are not adjacent. Fix: both [t,c].");
    for_activation(a.kind, [&](auto kind) {
      ctx.pool().for_range(rows, detail::piece_rows(cols), [&](index_t begin, index_t end) {
        for (index_t r = begin; r < end; ++r) {
          T const* const x = detail::row(a.x, r);
          T* const out = detail::row(a.out, r);
          detail::for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
            simd::store(out + j, apply_activation<kind()>(simd::load(x + j, n)), n);
          });
        }
      });
    });
  }
};

template <>
struct kernel_for<activation_backward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, activation_backward_args<T> const& a) {
    index_t const rows = a.x.extent(0), cols = a.x.extent(1);
    detail::require(detail::same_shape(a.x, rows, cols) && detail::same_shape(a.d_out, rows, cols) &&
                        detail::same_shape(a.d_x, rows, cols),
                    "tenon::activation_backward: x, d_out and d_x differ in shape. Fix: all [t,c], columns adjacent.");
    for_activation(a.kind, [&](auto kind) {
      ctx.pool().for_range(rows, detail::piece_rows(cols), [&](index_t begin, index_t end) {
        for (index_t r = begin; r < end; ++r) {
          T const* const x = detail::row(a.x, r);
          T const* const d_out = detail::row(a.d_out, r);
          T* const d_x = detail::row(a.d_x, r);
          detail::for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
            simd::store(d_x + j, simd::load(d_out + j, n) * activation_derivative<kind()>(simd::load(x + j, n)), n);
          });
        }
      });
    });
  }
};

template <>
struct kernel_for<gated_activation_forward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, gated_activation_forward_args<T> const& a) {
    index_t const rows = a.out.extent(0), cols = a.out.extent(1);
    detail::require(detail::same_shape(a.gate_up, rows, 2 * cols) && detail::same_shape(a.out, rows, cols),
                    "tenon::gated_activation_forward: gate_up is not [t,2f] for out [t,f]. Fix: gate first, then up.");
    for_activation(a.kind, [&](auto kind) {
      ctx.pool().for_range(rows, detail::piece_rows(2 * cols), [&](index_t begin, index_t end) {
        for (index_t r = begin; r < end; ++r) {
          T const* const gate = detail::row(a.gate_up, r);
          T const* const up = gate + cols;
          T* const out = detail::row(a.out, r);
          detail::for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
            simd::store(out + j, apply_activation<kind()>(simd::load(gate + j, n)) * simd::load(up + j, n), n);
          });
        }
      });
    });
  }
};

template <>
struct kernel_for<gated_activation_backward_t, device::host> {
  template <class T>
  static void run(exec::host_context& ctx, gated_activation_backward_args<T> const& a) {
    index_t const rows = a.d_out.extent(0), cols = a.d_out.extent(1);
    detail::require(detail::same_shape(a.gate_up, rows, 2 * cols) && detail::same_shape(a.d_gate_up, rows, 2 * cols) &&
                        detail::same_shape(a.d_out, rows, cols),
                    "tenon::gated_activation_backward: shapes differ. Fix: gate_up, d_gate_up [t,2f], d_out [t,f].");
    for_activation(a.kind, [&](auto kind) {
      ctx.pool().for_range(rows, detail::piece_rows(2 * cols), [&](index_t begin, index_t end) {
        for (index_t r = begin; r < end; ++r) {
          T const* const gate_row = detail::row(a.gate_up, r);
          T const* const d_out_row = detail::row(a.d_out, r);
          T* const d_gate = detail::row(a.d_gate_up, r);
          detail::for_lanes(0, cols, [&](index_t j, int n) TENON_INLINE_LAMBDA {
            auto const gate = simd::load(gate_row + j, n), up = simd::load(gate_row + cols + j, n);
            auto const d_out = simd::load(d_out_row + j, n);
            simd::store(d_gate + j, (d_out * up) * activation_derivative<kind()>(gate), n);
            simd::store(d_gate + cols + j, d_out * apply_activation<kind()>(gate), n);
          });
        }
      });
    });
  }
};

}  // namespace tenon::ops
