// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A tensor that owns its memory. (`tenon::tensor<N>` is the policy of tensor parallelism.)
#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include <tenon/core/arena.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>

namespace tenon {

/// A row-major tensor without gaps that owns its memory: aligned to a cache line, zero at first, moved but never copied
/// by accident. Every size is static or dynamic, as in `extents`.
///
///     dense_tensor<float, extents<3, 4>> weight;                     // sizes in the type
///     dense_tensor<bf16, extents<dynamic, 4>> rows(batch, 4);        // one size at run time
///     gemm(context, ..., rows.matrix());
///
/// @error argument_error for a negative size, a size that contradicts the type, or more bytes than there are addresses;
///        error(out_of_memory)
/// @test tests/core/tensor_test.cpp
template <class T, class Extents>
  requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>)
class dense_tensor {
 public:
  using element_type = T;
  using extents_type = Extents;
  using view_type = tenon::view<T, Extents>;
  using const_view_type = tenon::view<T const, Extents>;
  static constexpr int rank() { return Extents::rank(); }

  /// Holds its elements when all sizes are static, none (sizes 0) otherwise.
  dense_tensor() {
    if constexpr (Extents::rank_dynamic() == 0) allocate();
  }
  explicit dense_tensor(Extents e) : sizes(e) { allocate(); }
  /// One size per dimension, static ones included.
  template <class... I>
    requires(sizeof...(I) == std::size_t(Extents::rank()) && sizeof...(I) > 0 &&
             (std::is_convertible_v<I, index_t> && ...))
  explicit dense_tensor(I... all) : sizes(index_t(all)...) {
    index_t const given[] = {index_t(all)...};
    for (int d = 0; d < rank(); ++d)
      if (sizes.extent(d) != given[d])
        throw argument_error("tenon::dense_tensor: size " + std::to_string(d) + " is " + std::to_string(given[d]) +
                             ", its type says " + std::to_string(sizes.extent(d)) +
                             ". Fix: give the size of the type.");
    allocate();
  }
  /// In memory that is made already.
  dense_tensor(Extents e, memory_block made) : sizes(e), memory(std::move(made)) {
    if (memory.size() / sizeof(T) < std::size_t(size()))
      throw argument_error("tenon::dense_tensor: its " + std::to_string(size()) + " elements do not fit " +
                           std::to_string(memory.size()) + " bytes. Fix: a larger block.");
  }
  dense_tensor(dense_tensor&& o) noexcept : sizes(std::exchange(o.sizes, Extents{})), memory(std::move(o.memory)) {}
  dense_tensor& operator=(dense_tensor&& o) noexcept {
    std::swap(sizes, o.sizes);
    std::swap(memory, o.memory);
    return *this;
  }

  /// A copy, asked for by name.
  dense_tensor clone() const {
    dense_tensor copy(sizes);
    std::copy_n(data(), data() ? size() : 0, copy.data());
    return copy;
  }
  /// See memory_block::evict. @param first the first of `count` elements in the order of memory
  void evict(index_t first, index_t count) const {
    memory.evict(std::size_t(first) * sizeof(T), std::size_t(count) * sizeof(T));
  }
  void fill(T value) { std::fill_n(data(), data() ? size() : 0, value); }

  T* data() { return reinterpret_cast<T*>(memory.data()); }
  T const* data() const { return reinterpret_cast<T const*>(memory.data()); }
  Extents const& extents() const { return sizes; }
  index_t extent(int d) const { return sizes.extent(d); }
  index_t size() const { return sizes.size(); }
  bool empty() const { return data() == nullptr || size() == 0; }
  T* begin() { return data(); }
  T* end() { return data() + (data() ? size() : 0); }
  T const* begin() const { return data(); }
  T const* end() const { return data() + (data() ? size() : 0); }

  view_type view() { return {data(), sizes}; }
  const_view_type view() const { return {data(), sizes}; }
  /// A tensor of rank 2 as operations take matrices.
  matrix_view<T> matrix() requires(Extents::rank() == 2) { return tenon::matrix(data(), extent(0), extent(1)); }
  matrix_view<T const> matrix() const requires(Extents::rank() == 2) {
    return tenon::matrix(data(), extent(0), extent(1));
  }
  template <class... I>
    requires(sizeof...(I) == std::size_t(Extents::rank()))
  T& operator()(I... i) { return view()(i...); }
  template <class... I>
    requires(sizeof...(I) == std::size_t(Extents::rank()))
  T const& operator()(I... i) const { return view()(i...); }

 private:
  void allocate() {
    std::size_t bytes = sizeof(T);
    bool any = true;
    for (int d = 0; d < rank(); ++d) {
      index_t const n = sizes.extent(d);
      if (n < 0)
        throw argument_error("tenon::dense_tensor: size " + std::to_string(d) + " is " + std::to_string(n) +
                             ". Fix: sizes are zero or more.");
      if (n == 0) any = false;
    }
    for (int d = 0; any && d < rank(); ++d) {
      auto const n = std::size_t(sizes.extent(d));
      if (bytes > std::size_t(std::numeric_limits<index_t>::max()) / n)
        throw argument_error(
            "tenon::dense_tensor: its sizes multiply to more bytes than there are addresses. "
            "Fix: smaller sizes.");
      bytes *= n;
    }
    if (any) memory = memory_block(bytes);
  }

  [[no_unique_address]] Extents sizes{};
  memory_block memory;
};

}  // namespace tenon
