// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Extents, layouts and non-owning views in std::mdspan's vocabulary.
#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

namespace tenon {

using index_t = std::ptrdiff_t;
/// An extent that is known at run time only.
inline constexpr index_t dynamic = -1;

/// The sizes of a view, each static (a number) or `dynamic`. Static ones take no storage.
template <index_t... E>
class extents {
 public:
  static constexpr int rank() { return int(sizeof...(E)); }
  static constexpr index_t static_extent(int d) { return statics[std::size_t(d)]; }
  static constexpr int rank_dynamic() { return (0 + ... + int(E == dynamic)); }

  constexpr extents() = default;
  /// One size per dimension, static ones included (they must agree with the type).
  template <class... I>
    requires(sizeof...(I) == sizeof...(E) && sizeof...(I) > 0 && (std::is_convertible_v<I, index_t> && ...))
  constexpr explicit(false) extents(I... sizes) {
    if constexpr (rank_dynamic() > 0) {
      index_t const all[] = {index_t(sizes)...};
      for (int d = 0, k = 0; d < rank(); ++d)
        if (static_extent(d) == dynamic) dynamics[std::size_t(k++)] = all[d];
    } else {
      (void(sizes), ...);
    }
  }
  constexpr index_t extent(int d) const {
    if constexpr (rank_dynamic() > 0) {
      if (static_extent(d) == dynamic) {
        int k = 0;
        for (int i = 0; i < d; ++i) k += static_extent(i) == dynamic;
        return dynamics[std::size_t(k)];
      }
    }
    return static_extent(d);
  }
  constexpr index_t size() const {
    index_t n = 1;
    for (int d = 0; d < rank(); ++d) n *= extent(d);
    return n;
  }
  friend constexpr bool operator==(extents const& a, extents const& b) {
    for (int d = 0; d < rank(); ++d)
      if (a.extent(d) != b.extent(d)) return false;
    return true;
  }

 private:
  static constexpr std::array<index_t, sizeof...(E)> statics{E...};
  struct nothing {};  // std::array<index_t, 0> is not an empty class everywhere
  [[no_unique_address]] std::conditional_t<(0 + ... + int(E == dynamic)) == 0, nothing,
                                           std::array<index_t, std::size_t((0 + ... + int(E == dynamic)))>>
      dynamics{};
};

namespace detail {
template <int Rank, index_t... E>
struct dextents_of : dextents_of<Rank - 1, dynamic, E...> {};
template <index_t... E>
struct dextents_of<0, E...> {
  using type = extents<E...>;
};
}  // namespace detail
/// Extents of the given rank, all dynamic.
template <int Rank>
using dextents = typename detail::dextents_of<Rank>::type;

/// Row-major and without gaps: the last index runs fastest.
struct layout_right {
  template <class Extents>
  class mapping {
   public:
    constexpr mapping() = default;
    constexpr explicit(false) mapping(Extents e) : sizes(e) {}
    constexpr Extents const& extents() const { return sizes; }
    constexpr index_t stride(int d) const {
      index_t s = 1;
      for (int i = Extents::rank() - 1; i > d; --i) s *= sizes.extent(i);
      return s;
    }
    template <class... I>
    constexpr index_t operator()(I... i) const {
      index_t offset = 0;
      int d = 0;
      ((offset = offset * sizes.extent(d++) + index_t(i)), ...);
      return offset;
    }

   private:
    [[no_unique_address]] Extents sizes{};
  };
};

/// Any stride per dimension, counted in elements.
struct layout_stride {
  template <class Extents>
  class mapping {
   public:
    constexpr mapping() = default;
    constexpr mapping(Extents e, std::array<index_t, std::size_t(Extents::rank())> s) : sizes(e), strides(s) {}
    constexpr Extents const& extents() const { return sizes; }
    constexpr index_t stride(int d) const { return strides[std::size_t(d)]; }
    template <class... I>
    constexpr index_t operator()(I... i) const {
      index_t offset = 0;
      std::size_t d = 0;
      ((offset += index_t(i) * strides[d++]), ...);
      return offset;
    }

   private:
    [[no_unique_address]] Extents sizes{};
    std::array<index_t, std::size_t(Extents::rank())> strides{};
  };
};

/// A non-owning multi-dimensional view, as std::mdspan (C++23): a pointer and a mapping.
template <class T, class Extents, class Layout = layout_right>
class view {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using extents_type = Extents;
  using mapping_type = typename Layout::template mapping<Extents>;

  constexpr view() = default;
  constexpr view(T* data, mapping_type m) : pointer(data), map(m) {}
  template <class... I>
    requires(sizeof...(I) == std::size_t(Extents::rank()) && std::is_same_v<Layout, layout_right>)
  constexpr explicit view(T* data, I... sizes) : pointer(data), map(Extents(index_t(sizes)...)) {}
  /// A view of T is a view of T const.
  template <class U>
    requires(std::is_same_v<U const, T>)
  constexpr explicit(false) view(view<U, Extents, Layout> o) : pointer(o.data()), map(o.mapping()) {}

  static constexpr int rank() { return Extents::rank(); }
  constexpr T* data() const { return pointer; }
  constexpr mapping_type const& mapping() const { return map; }
  constexpr Extents const& extents() const { return map.extents(); }
  constexpr index_t extent(int d) const { return map.extents().extent(d); }
  constexpr index_t stride(int d) const { return map.stride(d); }
  constexpr index_t size() const { return map.extents().size(); }
  constexpr bool empty() const { return pointer == nullptr || size() == 0; }
  template <class... I>
    requires(sizeof...(I) == std::size_t(Extents::rank()))
  constexpr T& operator()(I... i) const { return pointer[map(i...)]; }

 private:
  T* pointer = nullptr;
  [[no_unique_address]] mapping_type map{};
};

/// A dense vector [n].
template <class T>
using vector_view = view<T, extents<dynamic>>;
/// A matrix [rows, cols] with free strides: a transpose is a swap of strides, a column block an offset.
template <class T>
using matrix_view = view<T, extents<dynamic, dynamic>, layout_stride>;

/// A row-major matrix [rows, cols]; `row_stride` in elements (cols when not given).
template <class T>
constexpr matrix_view<T> matrix(T* data, index_t rows, index_t cols, index_t row_stride = dynamic) {
  return {data, {extents<dynamic, dynamic>(rows, cols), {row_stride == dynamic ? cols : row_stride, 1}}};
}
/// [rows, cols] seen as [cols, rows]; no data moves.
template <class T>
constexpr matrix_view<T> transposed(matrix_view<T> m) {
  return {m.data(), {extents<dynamic, dynamic>(m.extent(1), m.extent(0)), {m.stride(1), m.stride(0)}}};
}
/// Rows [first, first + count) of a matrix.
template <class T>
constexpr matrix_view<T> rows_of(matrix_view<T> m, index_t first, index_t count) {
  return {m.data() + first * m.stride(0), {extents<dynamic, dynamic>(count, m.extent(1)), {m.stride(0), m.stride(1)}}};
}
/// Columns [first, first + count) of a matrix.
template <class T>
constexpr matrix_view<T> columns_of(matrix_view<T> m, index_t first, index_t count) {
  return {m.data() + first * m.stride(1), {extents<dynamic, dynamic>(m.extent(0), count), {m.stride(0), m.stride(1)}}};
}
template <class T>
constexpr matrix_view<T const> as_const(matrix_view<T> m) {
  return m;
}

}  // namespace tenon
