// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include <tenon/ops/host/block_codec.hpp>
#include <tenon/ops/host/elementwise.hpp>
#include <tenon/ops/host/weight_search.hpp>
#include <tenon/ops/quantize.hpp>

namespace tenon::ops {
namespace detail {

/// function(pointer) with `data` as a pointer to the format's numbers, if it holds numbers and not blocks.
template <class Function>
bool with_number_format(weight_format format, auto* data, Function&& function) {
  auto const as = [&]<class T>(T) {
    using pointer = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(data)>>, T const*, T*>;
    function(reinterpret_cast<pointer>(data));
    return true;
  };
  switch (format) {
    case weight_format::f32: return as(0.0f);
    case weight_format::f16: return as(fp16{});
    case weight_format::bf16: return as(bf16{});
    default: return false;
  }
}

/// out = `count` numbers, a multiple of the format's block, of which the first is the first of a block at `in`.
inline void decode_weights(weight_format format, std::byte const* in, index_t count, float* out) {
  if (with_number_format(format, in, [&](auto const* p) {
        for_lanes(0, count,
                  [&](index_t j, int n) TENON_INLINE_LAMBDA { simd::store(out + j, simd::load(p + j, n), n); });
      }))
    return;
  auto const& layout = layout_of(format);
  with_block_format(format, [&](auto constant) {
    for (index_t i = 0; i < count / layout.values; ++i)
      block_codec<constant.value>::decode(reinterpret_cast<block_byte const*>(in + i * layout.bytes),
                                          out + i * layout.values);
  });
}
/// The reverse.
inline void encode_weights(weight_format format, float const* in, index_t count, std::byte* out) {
  if (with_number_format(format, out, [&](auto* p) {
        for_lanes(0, count,
                  [&](index_t j, int n) TENON_INLINE_LAMBDA { simd::store(p + j, simd::load(in + j, n), n); });
      }))
    return;
  for (index_t i = 0; i < count; ++i)
    if (!std::isfinite(in[i]))
      throw argument_error("tenon::quantize: a weight is " + std::to_string(in[i]) +
                           ", which no block can hold. Fix: repair the model, or keep this tensor in F16 or F32.");
  auto const& layout = layout_of(format);
  std::memset(out, 0, std::size_t(count / layout.values * layout.bytes));
  with_block_format(format, [&](auto constant) {
    for (index_t i = 0; i < count / layout.values; ++i)
      encode_block(block_codec<constant.value>{}, in + i * layout.values,
                   reinterpret_cast<block_byte*>(out + i * layout.bytes));
  });
}
/// function(first number, how many) over all numbers of a matrix in whole blocks, on every thread.
template <class Function>
void for_weight_pieces(exec::host_context& ctx, weight_view const& w, char const* name, Function&& function) {
  index_t const block = layout_of(w.format).values;
  if (w.cols % block != 0)
    throw argument_error(std::string("tenon::") + name + ": rows of " + std::to_string(w.cols) +
                         " numbers are no whole blocks of " + std::to_string(block) + " (" + layout_of(w.format).name +
                         "). Fix: another format for this matrix.");
  ctx.pool().for_range(w.rows * w.cols, piece_elements,
                       [&](index_t begin, index_t end) { function(begin, end - begin); });
}

}  // namespace detail

static_assert(detail::piece_elements % 256 == 0, "tenon::quantize: pieces of work are whole blocks of any format.");

template <>
struct kernel_for<dequantize_t, device::host> {
  static void run(exec::host_context& ctx, dequantize_args const& a) {
    auto const& layout = layout_of(a.in.format);
    detail::for_weight_pieces(ctx, a.in, dequantize_t::name, [&](index_t begin, index_t count) {
      detail::decode_weights(a.in.format, a.in.data + begin / layout.values * layout.bytes, count, a.out + begin);
    });
  }
};

template <>
struct kernel_for<quantize_t, device::host> {
  static void run(exec::host_context& ctx, quantize_args const& a) {
    auto const& layout = layout_of(a.format);
    detail::for_weight_pieces(
        ctx, {a.format, a.out, a.rows, a.cols}, quantize_t::name, [&](index_t begin, index_t count) {
          detail::encode_weights(a.format, a.in + begin, count, a.out + begin / layout.values * layout.bytes);
        });
  }
};

}  // namespace tenon::ops
