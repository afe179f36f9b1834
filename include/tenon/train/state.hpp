// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The memory of a trainer: parameters, gradients and optimizer state, each one flat buffer.
#include <span>
#include <utility>
#include <vector>

#include <tenon/core/philox.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/core/tensor.hpp>
#include <tenon/exec/host/math.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/ops/elementwise.hpp>

namespace tenon::train {

/// A flat buffer of `size` values of T, zeroed.
template <class T>
using flat_buffer = dense_tensor<T, extents<dynamic>>;

/// Draws every parameter: normal values by Box and Muller from the Philox stream of the parameter's name, so a value
/// depends on (seed, name, row, column) alone.
inline void initialize(std::span<nn::parameter_spec const> specs, float* parameters, std::uint64_t seed) {
  for (auto const& spec : specs) {
    random_stream const stream(seed, spec.name);
    for (index_t row = 0; row < spec.rows; ++row) {
      float* const p = parameters + spec.offset + row * spec.cols;
      for (index_t col = 0; col < spec.cols; col += lanes) {
        float u[lanes], v[lanes], normal[lanes];
        for (int i = 0; i < lanes; i += 2) {  // two words a value: counters 2 * col .. 2 * col + 31 of this row
          auto const w = stream.quad(std::uint64_t(row), std::uint64_t(2 * col + 2 * i) / 4);
          for (std::size_t j = 0; j < 2; ++j) {
            u[std::size_t(i) + j] = (float(w[2 * j] >> 8) + 1.0f) * 0x1p-24f;  // (0, 1]
            v[std::size_t(i) + j] = float(w[2 * j + 1] >> 8) * 0x1p-24f;       // [0, 1)
          }
        }
        auto const radius = simd::sqrt(simd::broadcast(-2.0f) * simd::log(simd::load(u)));
        auto const angle = simd::broadcast(6.28318530718f) * simd::load(v);
        simd::store(normal, simd::fma(radius * simd::cos(angle), simd::broadcast(spec.init.stddev),
                                      simd::broadcast(spec.init.mean)));
        for (index_t i = 0; i < lanes && col + i < spec.cols; ++i)
          p[col + i] = spec.init.stddev == 0 ? spec.init.mean : normal[i];
      }
    }
  }
}

/// Gradients of micro-batches, added in the fixed tree over the micro-batch index (rule 2 of the arithmetic contract):
/// a binary counter of buffers. One micro-batch needs one buffer, 2^k need k + 1. `Bound` is what a buffer is bound to
/// (aggregates of views), made once per buffer.
template <class Bound>
class gradient_tree {
 public:
  struct slot {
    flat_buffer<float> values;
    Bound bound;
  };
  template <class Bind>
  gradient_tree(index_t size, index_t micro_batches, Bind&& bind) {
    for (int i = 0; i < tree_levels(micro_batches); ++i) {
      slots.emplace_back();
      slots.back().values = flat_buffer<float>(size);
      slots.back().bound = bind(slots.back().values.data());
    }
    for (auto& s : slots) unused.push_back(&s);
    pending.resize(slots.size(), nullptr);
  }
  gradient_tree(gradient_tree const&) = delete;

  /// The buffer that the next micro-batch writes over.
  slot& next() { return *unused.back(); }
  /// Takes the buffer from `next()` as the gradient of micro-batch number `count`.
  template <class Context>
  void push(Context& context) {
    slot* node = unused.back();
    unused.pop_back();
    std::size_t level = 0;
    for (index_t q = count; q & 1; q >>= 1, ++level)
      node = merge(context, std::exchange(pending[level], nullptr), node);
    pending[level] = node;
    ++count;
  }
  /// The sum; valid until the next `push`.
  template <class Context>
  slot& finish(Context& context) {
    slot* node = nullptr;
    for (auto& p : pending) {
      if (!p) continue;
      slot* const earlier = std::exchange(p, nullptr);
      node = node ? merge(context, earlier, node) : earlier;
    }
    unused.push_back(node);
    count = 0;
    return *node;
  }

 private:
  template <class Context>
  slot* merge(Context& context, slot* earlier, slot* later) {
    ops::add(context,
             ops::add_args<float, float>{earlier->values.data(), later->values.data(), earlier->values.size()});
    unused.push_back(later);
    return earlier;
  }
  std::vector<slot> slots;
  std::vector<slot*> unused, pending;
  index_t count = 0;
};

}  // namespace tenon::train
