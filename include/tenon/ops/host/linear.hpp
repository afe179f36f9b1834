// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Products with stored weights on the host.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <concepts>
#include <cstring>
#include <limits>
#include <string>

#include <tenon/exec/host/parallel.hpp>
#include <tenon/ops/embedding.hpp>
#include <tenon/ops/host/embedding.hpp>
#include <tenon/ops/host/gemm.hpp>
#include <tenon/ops/host/linear_kernel.hpp>
#include <tenon/ops/host/rows.hpp>
#include <tenon/ops/linear.hpp>

namespace tenon::ops {
namespace detail {

TENON_ALWAYS_INLINE void quantize(float const* x, quantized_block& out) {
  simd::f32x16 const a[2] = {simd::load(x), simd::load(x + lanes)};
  bool const finite = !simd::any(simd::is_nan((a[0] - a[0]) + (a[1] - a[1])));
  float const amax = simd::reduce_max(simd::max(simd::abs(a[0]), simd::abs(a[1])));
  bool const zero = !finite || amax < 0x1p-100f;
  out.scale = !finite ? std::numeric_limits<float>::quiet_NaN() : zero ? 0.0f : amax / 127.0f;
  simd::f32x16 const inverse = simd::broadcast(zero ? 0.0f : 127.0f / amax);
  for (int h = 0; h < 2; ++h) {
    auto const rounded = finite ? simd::round(a[h] * inverse) : simd::zeros();
    simd::store_low_bytes(out.values + h * lanes, simd::to_int(rounded));
    out.sums[h] = std::int16_t(simd::reduce_add(rounded));  // small integers: exact
  }
  out.scaled_sum = out.scale * float(out.sums[0] + out.sums[1]);
}

/// function(T{}) with the element type of a format of numbers.
template <class Function>
void with_element_format(weight_format format, Function&& function) {
  if (format == weight_format::f32) function(float());
  else if (format == weight_format::f16) function(fp16());
  else function(bf16());
}
/// The weights of a format of numbers.
template <class T>
matrix_view<T const> elements_of(weight_view const& w) {
  return as_const(matrix(const_cast<T*>(reinterpret_cast<T const*>(w.data)), w.rows, w.cols));
}

inline void check_linear(linear_args const& a) {
  index_t const t = a.y.extent(0), n = a.weight.rows, k = a.weight.cols;
  bool const quantized = is_blocks(a.weight.format) && !a.quantized.empty();
  require(same_shape(a.y, t, n) && (quantized || same_shape(a.x, t, k)) &&
              (a.residual.empty() || same_shape(a.residual, t, n)),
          "tenon::ops::linear: shapes do not fit. Fix: x [t,k], weight [n,k], y and residual [t,n], rows contiguous.");
  if (!is_blocks(a.weight.format)) return;
  if (k % layout_of(a.weight.format).values)
    throw argument_error("tenon::ops::linear: " + std::to_string(k) + " columns are not whole blocks of " +
                         layout_of(a.weight.format).name + ". Fix: a multiple of " +
                         std::to_string(layout_of(a.weight.format).values) + ".");
  require(!quantized || same_shape(a.quantized, t, k / weight_group),
          "tenon::ops::linear: quantized is not x. Fix: what quantize_rows made of x, [t, k / 32].");
  if (a.leaf % weight_group)
    throw argument_error("tenon::ops::linear: a leaf of " + std::to_string(a.leaf) +
                         " values cuts a group of 32. Fix: a multiple of 32, or 0.");
}

/// Outputs in strips of `width`, some of them on each thread.
class linear_strips {
 public:
  /// @param space  floats that a thread needs for itself
  linear_strips(exec::host_context& context, linear_args const& arguments, index_t strip_width, index_t space)
      : ctx(context), a(arguments), width(strip_width), own_floats(round_up(space, lanes)) {
    own = ctx.scratch().allocate<float>(own_floats * ctx.pool().size());
    index_t const whole = a.weight.rows / width * width, bytes = a.weight.row_bytes();
    if (whole == a.weight.rows) return;
    // A last strip that is not whole is completed by rows of zeros.
    auto* const copy = ctx.scratch().allocate<std::byte>(width * bytes);
    std::memset(copy, 0, std::size_t(width * bytes));
    std::memcpy(copy, a.weight.row(whole), std::size_t((a.weight.rows - whole) * bytes));
    last_rows = copy;
    last_first = whole;
  }

  /// function(first output, its weights, weights that this thread reads next, space)
  template <class Function>
  void run(Function&& function) const {
    index_t const strips = ceil_div(a.weight.rows, width);
    int const threads = ctx.pool().size();
    bool const alone =
        double(a.y.extent(0)) * double(a.weight.rows) * double(a.weight.cols) < gemm_plan::least_parallel_work;
    index_t const most = ceil_div(strips, 4 * threads), in_chunk = chunk_bytes / (width * a.weight.row_bytes());
    index_t const chunk = alone ? strips : std::clamp<index_t>(in_chunk, 1, most);
    std::atomic<index_t> next{0};
    auto const work = [&](int thread) {
      auto const take = [&] { return next.fetch_add(chunk, std::memory_order_relaxed); };
      // The chunk that follows is taken early: its memory is fetched meanwhile.
      for (index_t first = take(), then; first < strips; first = then) {
        then = take();
        for (index_t s = first, end = std::min(first + chunk, strips); s < end; ++s)
          function(s * width, rows_from(s * width),
                   a.weight.row(std::min((s + 1 < end ? s + 1 : then) * width, a.weight.rows)),
                   own + thread * own_floats);
      }
    };
    if (alone) work(0);
    else ctx.pool().run(work);
  }

 private:
  static constexpr index_t chunk_bytes = index_t(1) << 16;  ///< of weights that a thread takes at a time

  std::byte const* rows_from(index_t first) const {
    return first < last_first ? a.weight.row(first) : last_rows + (first - last_first) * a.weight.row_bytes();
  }

  exec::host_context& ctx;
  linear_args const& a;
  index_t width, own_floats;
  float* own;
  std::byte const* last_rows = nullptr;
  index_t last_first = std::numeric_limits<index_t>::max();
};

/// What becomes of finished sums [tokens, width].
struct linear_output {
  gemm_epilogue<float> epilogue;
  explicit linear_output(linear_args const& a) : epilogue{a.y, a.bias, false, a.activation, false, a.residual, {}} {}
  void store(float const* sums, index_t token, index_t first, int tokens, index_t width) const {
    epilogue.store_tile(sums, width, token, first, tokens, int(std::min(width, epilogue.c.extent(1) - first)));
  }
};

/// Weights in blocks: for one row of x straight from where they lie, for more a strip of them is unpacked first.
template <weight_format F>
void multiply_blocks(exec::host_context& ctx, linear_args const& a, matrix_view<quantized_block const> x) {
  index_t const t = x.extent(0), stride = a.weight.row_bytes();
  linear_leaves const leaves(a.weight.cols, a.leaf, weight_group);
  linear_output const output(a);
  if (t == 1) {
    linear_strips(ctx, a, lanes, leaves.node_values())
        .run([&](index_t first, std::byte const* weights, std::byte const* ahead, float* own) {
          float sums[lanes];
          multiply_row<F>(weights, stride, x.data(), leaves, own, ahead, sums);
          output.store(sums, 0, first, 1, lanes);
        });
    return;
  }
  index_t const panel = weight_panel::floats(leaves.groups), panels = panel * linear_tile::panels;
  linear_strips(ctx, a, linear_tile::cols, panels + linear_tile::size + leaves.node_values())
      .run([&](index_t first, std::byte const* weights, std::byte const*, float* own) {
        for (index_t p = 0; p < linear_tile::panels; ++p)
          unpack_panel<F>(weights + p * lanes * stride, stride, a.weight.cols, own + p * panel);
        float* const sums = own + panels;
        linear_strip const strip{traits_of(F), leaves, own, panel, sums + linear_tile::size};
        for (index_t i = 0, done; i < t; i += done) {
          done = multiply_tokens(strip, row(x, i), x.stride(0), t - i, sums);
          output.store(sums, i, first, int(done), linear_tile::cols);
        }
      });
}

/// Weights that are numbers and rows of x so few that these stay where they lie, and are turned in registers.
template <class T>
void multiply_few_rows(exec::host_context& ctx, linear_args const& a) {
  linear_leaves const leaves(a.weight.cols, a.leaf, number_group<T>);
  linear_output const output(a);
  linear_strips(ctx, a, lanes, linear_tile::size + leaves.node_values())
      .run([&](index_t first, std::byte const* weights, std::byte const* ahead, float* sums) {
        for (index_t i = 0, done; i < a.x.extent(0); i += done) {
          done = multiply_number_rows<T>(weights, a.weight.row_bytes(), row(a.x, i), a.x.stride(0), a.x.extent(0) - i,
                                         leaves, sums + linear_tile::size, i ? nullptr : ahead, sums);
          output.store(sums, i, first, int(done), lanes);
        }
      });
}

}  // namespace detail

/// @test tests/ops/linear_test.cpp
template <>
struct kernel_for<quantize_rows_t, device::host> {
  static void run(exec::host_context& ctx, quantize_rows_args const& a) {
    index_t const t = a.x.extent(0), k = a.x.extent(1), blocks = k / quantized_block::size;
    detail::require(
        detail::same_shape(a.x, t, k) && k % quantized_block::size == 0 && detail::same_shape(a.out, t, blocks),
        "tenon::ops::quantize_rows: shapes do not fit. Fix: x [t,k] with k a multiple of 32, out [t, k / 32].");
    ctx.pool().for_range(t, detail::piece_rows(k), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t b = 0; b < blocks; ++b)
          detail::quantize(detail::row(a.x, i) + b * quantized_block::size, detail::row(a.out, i)[b]);
    });
  }
};

/// @test tests/ops/linear_test.cpp
template <>
struct kernel_for<linear_t, device::host> {
  /// A template, so that a file which does not call it compiles none of the kernels.
  template <std::same_as<linear_args> Args>
  static void run(exec::host_context& ctx, Args const& a) {
    detail::check_linear(a);
    if (a.y.empty()) return;
    if (!is_blocks(a.weight.format) || a.weight.cols == 0) return multiply_numbers(ctx, a);
    arena_scope scope(ctx.scratch());
    auto x = a.quantized;
    if (x.empty()) {
      auto const made =
          ctx.scratch().allocate_matrix<quantized_block>(a.x.extent(0), a.weight.cols / quantized_block::size);
      kernel_for<quantize_rows_t, device::host>::run(ctx, quantize_rows_args{a.x, made});
      x = made;
    }
    with_block_format(a.weight.format, [&]<class F>(F) { detail::multiply_blocks<F::value>(ctx, a, x); });
  }

 private:
  /// Rows of x up to which packing all weights, as `gemm` does, costs more than it saves.
  static constexpr index_t few_rows = TENON_SIMD_AVX512() ? 16 : 2;

  template <class Args>
  static void multiply_numbers(exec::host_context& ctx, Args const& a) {
    detail::with_element_format(a.weight.format, [&]<class T>(T) {
      constexpr index_t group = detail::number_group<T>;
      index_t const k = a.weight.cols;
      arena_scope scope(ctx.scratch());
      if (a.x.extent(0) <= few_rows && k > 0 && k % group == 0 && (a.leaf % group == 0 || a.leaf >= k))
        return detail::multiply_few_rows<T>(ctx, a);
      kernel_for<gemm_t, device::host>::run(
          ctx, gemm_args<float, float, T>{.c = a.y,
                                          .a = a.x,
                                          .b = transposed(detail::elements_of<T>(a.weight)),
                                          .leaf = a.leaf,
                                          .bias = a.bias,
                                          .activation = a.activation,
                                          .residual = a.residual});
    });
  }
};

/// @test tests/ops/linear_test.cpp
template <>
struct kernel_for<table_rows_t, device::host> {
  template <std::same_as<table_rows_args> Args>  // as above
  static void run(exec::host_context& ctx, Args const& a) {
    if (!is_blocks(a.table.format)) {
      detail::with_element_format(a.table.format, [&]<class T>(T) {
        kernel_for<embedding_forward_t, device::host>::run(
            ctx, embedding_forward_args<T, float>{.tokens = a.tokens,
                                                  .table = detail::elements_of<T>(a.table),
                                                  .out = a.out,
                                                  .scale = a.scale});
      });
      return;
    }
    index_t const t = index_t(a.tokens.size());
    detail::require(detail::same_shape(a.out, t, a.table.cols),
                    "tenon::ops::table_rows: out has not the shape [tokens, columns of the table].");
    for (std::int32_t token : a.tokens)
      if (token < 0 || token >= a.table.rows)
        throw argument_error("tenon::ops::table_rows: token " + std::to_string(token) + " is not a row of a table of " +
                             std::to_string(a.table.rows) + ". Fix: tokens of this model's vocabulary.");
    ctx.pool().for_range(t, detail::piece_rows(a.table.cols), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        unpack_row(a.table, a.tokens[std::size_t(i)], a.scale, detail::row(a.out, i));
    });
  }

 private:
  /// By sixteen times the same row: the waste is less than a second decoder of each format would be.
  template <class Table>
  static void unpack_row(Table const& table, index_t r, float scale, float* out) {
    using panel = detail::weight_panel;
    detail::weight_traits const traits = detail::traits_of(table.format);
    weight_layout const& layout = layout_of(table.format);
    float groups[8 * panel::group_floats];
    for (index_t b = 0; b < table.cols / layout.values; ++b) {
      with_block_format(table.format, [&]<class F>(F) {
        detail::unpack_panel<F::value>(table.row(r) + b * layout.bytes, 0, layout.values, groups);
      });
      for (index_t i = 0; i < layout.values; ++i) {
        float const* const group = groups + i / detail::weight_group * panel::group_floats;
        index_t const in_group = i % detail::weight_group, half = traits.halves ? in_group / lanes * lanes : 0;
        unsigned char bytes[4];
        std::memcpy(bytes, group + in_group / 4 * lanes, sizeof bytes);
        float value = float(int(bytes[in_group % 4]) - traits.offset);
        if (traits.halves) value *= group[panel::part + half];
        value = traits.minimum ? std::fma(value, group[panel::scale], group[panel::minimum + half])
                               : value * group[panel::scale];
        *out++ = value * scale;
      }
    }
  }
};

}  // namespace tenon::ops
