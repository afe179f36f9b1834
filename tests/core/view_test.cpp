// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <type_traits>
#include <vector>

#include <tenon/core/view.hpp>

using namespace tenon;

TEST_CASE("view: static extents take no room and answer at compile time") {
  using fixed = extents<2, 3, 5>;
  static_assert(fixed::rank() == 3 && fixed::rank_dynamic() == 0 && fixed{}.size() == 30);
  static_assert(std::is_empty_v<fixed>);
  static_assert(sizeof(view<float, fixed>) == sizeof(float*));
  using mixed = extents<2, dynamic, 5>;
  static_assert(mixed::rank_dynamic() == 1 && mixed::static_extent(1) == dynamic);
  static_assert(mixed(2, 7, 5).extent(1) == 7 && mixed(2, 7, 5).extent(2) == 5);
  static_assert(sizeof(mixed) == sizeof(index_t));
  static_assert(std::is_same_v<dextents<2>, extents<dynamic, dynamic>>);
  static_assert(std::is_same_v<dextents<0>, extents<>> && extents<>{}.size() == 1);
  CHECK(mixed(2, 7, 5) == mixed(2, 7, 5));
  CHECK_FALSE(mixed(2, 7, 5) == mixed(2, 8, 5));
}

TEST_CASE("view: layout_right counts the last index fastest") {
  std::vector<int> data(2 * 3 * 5);
  for (int i = 0; i < 30; ++i) data[std::size_t(i)] = i;
  view<int, extents<dynamic, 3, dynamic>> v(data.data(), 2, 3, 5);
  int want = 0;
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 3; ++j)
      for (index_t k = 0; k < 5; ++k) CHECK(v(i, j, k) == want++);
  CHECK(v.stride(0) == 15);
  CHECK(v.stride(1) == 5);
  CHECK(v.stride(2) == 1);
  CHECK(v.size() == 30);
  view<int const, extents<dynamic, 3, dynamic>> c = v;
  CHECK(c.data() == v.data());
  CHECK_FALSE(c.empty());
  CHECK(view<int, dextents<1>>{}.empty());
  CHECK(vector_view<int>(data.data(), 0).empty());
}

TEST_CASE("view: a matrix, its transpose, rows and columns share memory") {
  std::vector<int> data(4 * 7, -1);
  auto m = matrix(data.data(), 4, 5, 7);  // a row is 7 apart, 5 columns are seen
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 5; ++j) m(i, j) = int(10 * i + j);
  for (index_t i = 0; i < 4; ++i) {
    CHECK(data[std::size_t(i * 7 + 5)] == -1);
    CHECK(data[std::size_t(i * 7 + 6)] == -1);
  }
  auto t = transposed(m);
  CHECK(t.extent(0) == 5);
  CHECK(t.extent(1) == 4);
  auto r = rows_of(m, 1, 2);
  auto c = columns_of(m, 2, 3);
  auto both = columns_of(transposed(rows_of(m, 1, 3)), 1, 2);  // [5, 2]
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 5; ++j) {
      CHECK(t(j, i) == m(i, j));
      if (i >= 1 && i < 3) CHECK(r(i - 1, j) == m(i, j));
      if (j >= 2) CHECK(c(i, j - 2) == m(i, j));
      if (i >= 2) CHECK(both(j, i - 2) == m(i, j));
    }
  CHECK(rows_of(m, 4, 0).empty());
  CHECK(columns_of(m, 5, 0).empty());
  static_assert(std::is_same_v<decltype(as_const(m)), matrix_view<int const>>);
  CHECK(as_const(m)(3, 4) == 34);
}

TEST_CASE("view: offsets do not overflow 32 bits") {
  // Only offsets are asked for; nothing is read.
  layout_right::mapping<dextents<3>> const map{dextents<3>(70'000, 70'000, 3)};
  CHECK(map(69'999, 69'999, 2) == index_t(70'000) * 70'000 * 3 - 1);
  layout_stride::mapping<dextents<2>> const strided{dextents<2>(70'000, 70'000), {70'000, 1}};
  CHECK(strided(69'999, 69'999) == index_t(70'000) * 70'000 - 1);
}
