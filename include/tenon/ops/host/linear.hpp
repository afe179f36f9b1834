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

/// function(piece) for each piece of W.
template <class Function>
void for_pieces(linear_args const& a, Function&& function) {
  function(a.weight);
  for (auto const& piece : a.below) function(piece);
}

inline void check_linear(linear_args const& a) {
  index_t const t = a.y.extent(0), k = a.weight.cols;
  index_t n = a.weight.rows;
  bool const in_blocks = is_blocks(a.weight.format);
  for (auto const& piece : a.below) {
    require(piece.cols == k && is_blocks(piece.format) == in_blocks,
            "tenon::ops::linear: pieces of a weight do not fit. Fix: all [rows,k], all in blocks or all numbers.");
    n += piece.rows;
  }
  bool const quantized = in_blocks && !a.quantized.empty();
  require(same_shape(a.y, t, n) && (quantized || same_shape(a.x, t, k)) &&
              (a.residual.empty() || same_shape(a.residual, t, n)),
          "tenon::ops::linear: shapes do not fit. Fix: x [t,k], weight [n,k], y and residual [t,n], rows contiguous.");
  if (!in_blocks) return;
  for_pieces(a, [&](weight_view const& piece) {
    if (k % layout_of(piece.format).values)
      throw argument_error("tenon::ops::linear: " + std::to_string(k) + " columns are not whole blocks of " +
                           layout_of(piece.format).name + ". Fix: a multiple of " +
                           std::to_string(layout_of(piece.format).values) + ".");
  });
  require(!quantized || same_shape(a.quantized, t, k / weight_group),
          "tenon::ops::linear: quantized is not x. Fix: what quantize_rows made of x, [t, k / 32].");
  if (a.leaf % weight_group)
    throw argument_error("tenon::ops::linear: a leaf of " + std::to_string(a.leaf) +
                         " values cuts a group of 32. Fix: a multiple of 32, or 0.");
}

/// Outputs in strips of `width`, some of them on each thread.
class linear_strips {
 public:
  /// Outputs [first, first + count), of one piece.
  struct strip {
    weight_format format;
    index_t first, count;
    std::byte const* weights;  ///< `width` rows: behind the last one of the piece come zeros
    index_t stride;            ///< bytes from row to row
    linear_ahead ahead;
    float* own;  ///< the thread's space
  };

  /// @param space  floats that a thread needs for itself
  linear_strips(exec::host_context& context, linear_args const& arguments, index_t strip_width, index_t space)
      : ctx(context), a(arguments), width(strip_width), own_floats(round_up(space, lanes)) {
    own = ctx.scratch().allocate<float>(own_floats * ctx.pool().size());
    pieces = end = ctx.scratch().allocate<piece>(1 + index_t(a.below.size()));
    index_t first = 0;
    for_pieces(a, [&](weight_view const& w) {
      *end++ = {w, w.row_bytes(), strips, first, completed(w)};
      strips += ceil_div(w.rows, width);
      first += w.rows;
    });
  }

  /// function(strip) for all of them
  template <class Function>
  void run(Function&& function) const {
    int const threads = ctx.pool().size();
    bool const alone = double(a.y.size()) * double(a.weight.cols) < gemm_plan::least_parallel_work;
    index_t const most = std::max<index_t>(chunk_bytes / (width * a.weight.row_bytes()), 1);
    std::atomic<index_t> next{0};
    // Fewer and fewer strips at a time, so that all threads end together.
    auto const take = [&] {
      index_t first = next.load(std::memory_order_relaxed), last;
      do {
        index_t const left = strips - first;
        last = first + (alone ? left : std::min(left, std::clamp<index_t>(left / (2 * threads), 1, most)));
      } while (!next.compare_exchange_weak(first, last, std::memory_order_relaxed));
      return std::pair(first, last);
    };
    auto const work = [&](int thread) {
      // The chunk that follows is taken early: its memory is fetched meanwhile.
      for (auto chunk = take(), then = chunk; chunk.first < chunk.second; chunk = then) {
        then = take();
        auto const ahead = [&](index_t s) { return rows_of(s < chunk.second ? s : then.first + s - chunk.second); };
        for (index_t s = chunk.first; s < chunk.second; ++s) {
          piece const& p = piece_of(s);
          index_t const row = (s - p.first_strip) * width, count = std::min(width, p.weight.rows - row);
          function(strip{p.weight.format, p.first + row, count, count < width ? p.last : p.row(row), p.stride,
                         linear_ahead{ahead(s + 1), ahead(s + 2)}, own + thread * own_floats});
        }
      }
    };
    if (alone) work(0);
    else ctx.pool().run(work);
  }

 private:
  static constexpr index_t chunk_bytes = index_t(1) << 16;  ///< of weights, the most that a thread takes at a time
  struct piece {
    weight_view weight;
    index_t stride, first_strip, first;
    std::byte const* last;  ///< the last strip, where it is not whole
    std::byte const* row(index_t r) const { return weight.data + r * stride; }
  };

  /// A last strip that is not whole, completed by rows of zeros.
  std::byte const* completed(weight_view const& w) const {
    index_t const whole = w.rows / width * width, bytes = w.row_bytes();
    if (whole == w.rows) return nullptr;
    auto* const copy = ctx.scratch().allocate<std::byte>(width * bytes);
    std::memset(copy, 0, std::size_t(width * bytes));
    std::memcpy(copy, w.row(whole), std::size_t((w.rows - whole) * bytes));
    return copy;
  }
  piece const& piece_of(index_t s) const {
    piece const* p = pieces;
    while (p + 1 < end && s >= p[1].first_strip) ++p;
    return *p;
  }
  /// Where a strip lies, or what is behind the last one.
  std::byte const* rows_of(index_t s) const {
    piece const& p = piece_of(s);
    return p.row(std::min((s - p.first_strip) * width, p.weight.rows));
  }

  exec::host_context& ctx;
  linear_args const& a;
  index_t width, own_floats, strips = 0;
  float* own;
  piece *pieces, *end;
};

/// What becomes of a strip's finished sums [tokens, width].
struct linear_output {
  gemm_epilogue<float> epilogue;
  explicit linear_output(linear_args const& a) : epilogue{a.y, a.bias, false, a.activation, false, a.residual, {}} {}
  void store(float const* sums, index_t token, linear_strips::strip const& s, int tokens, index_t width) const {
    epilogue.store_tile(sums, width, token, s.first, tokens, int(s.count));
  }
};

/// Weights in blocks and one row of x: straight from where they lie.
template <std::same_as<linear_args> Args>
void multiply_one_row(exec::host_context& ctx, Args const& a) {
  linear_leaves const leaves(a.weight.cols, a.leaf, weight_group);
  linear_output const output(a);
  linear_strips(ctx, a, lanes, leaves.node_values()).run([&](linear_strips::strip const& s) {
    float sums[lanes];
    with_block_format(s.format, [&]<class F>(F) {
      multiply_row<F::value>(s.weights, s.stride, a.quantized.data(), leaves, s.own, s.ahead, sums);
    });
    output.store(sums, 0, s, 1, lanes);
  });
}

/// More rows: a strip of weights is unpacked first, and those of the next one come meanwhile.
template <std::same_as<linear_args> Args>
void multiply_rows(exec::host_context& ctx, Args const& a) {
  auto const x = a.quantized;
  linear_leaves const leaves(a.weight.cols, a.leaf, weight_group);
  linear_output const output(a);
  index_t const panel = weight_panel::floats(leaves.groups), panels = panel * linear_tile::panels;
  index_t const steps = leaves.groups * (linear_tile::panels + ceil_div(x.extent(0), linear_tile::tokens));
  linear_strips(ctx, a, linear_tile::cols, panels + linear_tile::size + leaves.node_values())
      .run([&](linear_strips::strip const& s) {
        index_t const bytes = linear_tile::cols * s.stride;
        linear_fetch next{s.ahead.next, bytes, round_up(ceil_div(bytes, steps), cache_line_bytes)};
        with_block_format(s.format, [&]<class F>(F) {
          for (index_t p = 0; p < linear_tile::panels; ++p)
            unpack_panel<F::value>(s.weights + p * lanes * s.stride, s.stride, a.weight.cols, next, s.own + p * panel);
        });
        float* const sums = s.own + panels;
        linear_strip const unpacked{traits_of(s.format), leaves, s.own, panel, sums + linear_tile::size};
        for (index_t i = 0, done; i < x.extent(0); i += done) {
          done = multiply_tokens(unpacked, row(x, i), x.stride(0), x.extent(0) - i, next, sums);
          output.store(sums, i, s, int(done), linear_tile::cols);
        }
      });
}

/// Weights that are numbers and rows of x so few that these stay where they lie, and are turned in registers.
template <class T>
void multiply_few_rows(exec::host_context& ctx, linear_args const& a) {
  linear_leaves const leaves(a.weight.cols, a.leaf, number_group<T>);
  linear_output const output(a);
  linear_strips(ctx, a, lanes, linear_tile::size + leaves.node_values()).run([&](linear_strips::strip const& s) {
    for (index_t i = 0, done; i < a.x.extent(0); i += done) {
      done = multiply_number_rows<T>(s.weights, s.stride, row(a.x, i), a.x.stride(0), a.x.extent(0) - i, leaves,
                                     s.own + linear_tile::size, s.ahead, s.own);
      output.store(s.own, i, s, int(done), lanes);
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
  static void run(exec::host_context& ctx, Args a) {
    detail::check_linear(a);
    if (a.y.empty()) return;
    bool const in_blocks = is_blocks(a.weight.format) && a.weight.cols > 0;
    index_t const t = a.y.extent(0);
    arena_scope scope(ctx.scratch());
    if (in_blocks && a.quantized.empty()) {
      auto const made = ctx.scratch().allocate_matrix<quantized_block>(t, a.weight.cols / quantized_block::size);
      kernel_for<quantize_rows_t, device::host>::run(ctx, quantize_rows_args{a.x, made});
      a.quantized = made;
    }
    if (in_blocks) return t == 1 ? detail::multiply_one_row(ctx, a) : detail::multiply_rows(ctx, a);
    index_t first = 0;
    detail::for_pieces(a, [&](weight_view const& piece) {
      Args part = a;
      part.weight = piece, part.below = {}, part.y = columns_of(a.y, first, piece.rows);
      if (a.bias) part.bias = a.bias + first;
      if (!a.residual.empty()) part.residual = columns_of(a.residual, first, piece.rows);
      multiply_numbers(ctx, part);
      first += piece.rows;
    });
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
    detail::linear_fetch nothing{};
    for (index_t b = 0; b < table.cols / layout.values; ++b) {
      with_block_format(table.format, [&]<class F>(F) {
        detail::unpack_panel<F::value>(table.row(r) + b * layout.bytes, 0, layout.values, nothing, groups);
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
