// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>

#include <tenon/core/config.hpp>
#include <tenon/core/element.hpp>
#include <tenon/core/tensor.hpp>

using namespace tenon;

TEST_CASE("dense_tensor: zeroed, aligned, with static, mixed and dynamic sizes") {
  using fixed = dense_tensor<float, extents<3, 5>>;
  static_assert(!std::is_copy_constructible_v<fixed> && !std::is_copy_assignable_v<fixed>);
  static_assert(std::is_nothrow_move_constructible_v<fixed> && std::is_nothrow_move_assignable_v<fixed>);
  static_assert(sizeof(fixed) == sizeof(memory_block));
  fixed a;
  CHECK(a.size() == 15);
  CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % cache_line_bytes == 0);
  for (float x : a) CHECK(x == 0.0f);

  dense_tensor<bf16, extents<dynamic, 4>> b(7, 4);
  CHECK(b.size() == 28);
  CHECK(b.extent(0) == 7);
  for (bf16 x : b) CHECK(x.bits == 0);

  dense_tensor<double, dextents<3>> c(2, 3, 4);
  std::iota(c.begin(), c.end(), 0.0);
  CHECK(c(1, 2, 3) == 23.0);
  CHECK(c.view()(1, 0, 2) == 14.0);
  c(0, 1, 1) = -1.0;
  auto const& constant = c;
  CHECK(constant(0, 1, 1) == -1.0);
  CHECK(constant.view().data() == c.data());
  static_assert(std::is_same_v<decltype(constant.view()), view<double const, dextents<3>>>);

  dense_tensor<int, extents<>> scalar;
  CHECK(scalar.size() == 1);
  CHECK(*scalar.data() == 0);
  dense_tensor<float, dextents<2>> large(1024, 1025);  // past the size where huge pages begin
  for (float x : large) REQUIRE(x == 0.0f);
}

TEST_CASE("dense_tensor: moves leave nothing behind, a clone is its own") {
  dense_tensor<float, dextents<2>> a(2, 3), none;
  CHECK(none.empty());
  CHECK(none.begin() == none.end());
  a.fill(4.0f);
  float* const p = a.data();
  auto b = std::move(a);
  CHECK(b.data() == p);
  CHECK(a.empty());
  CHECK(a.size() == 0);
  auto c = b.clone();
  c(1, 2) = 5.0f;
  CHECK(b(1, 2) == 4.0f);
  CHECK(c(0, 0) == 4.0f);
  c = std::move(b);
  CHECK(c.data() == p);
  CHECK(none.clone().empty());
  dense_tensor<float, dextents<2>> zero(0, 3);
  CHECK(zero.empty());
  CHECK(zero.extent(1) == 3);
}

TEST_CASE("dense_tensor: as a matrix for operations") {
  dense_tensor<float, extents<dynamic, 3>> a(4, 3);
  auto m = a.matrix();
  m(2, 1) = 7.0f;
  CHECK(a(2, 1) == 7.0f);
  auto const& constant = a;
  static_assert(std::is_same_v<decltype(constant.matrix()), matrix_view<float const>>);
  CHECK(transposed(constant.matrix())(1, 2) == 7.0f);
}

TEST_CASE("dense_tensor: sizes that cannot be are refused with a sentence") {
  using rows = dense_tensor<float, extents<dynamic, 4>>;
  CHECK_THROWS_AS(rows(-1, 4), argument_error);
  CHECK_THROWS_AS(rows(2, 5), argument_error);
  index_t const huge = std::numeric_limits<index_t>::max() / 8;
  CHECK_THROWS_AS(rows(huge, 4), argument_error);
  CHECK_NOTHROW(dense_tensor<float, dextents<3>>(huge, huge, 0));
  try {
    rows(2, 5);
  } catch (argument_error const& e) {
    CHECK(std::string(e.what()) ==
          "tenon::dense_tensor: size 1 is 5, its type says 4. Fix: give the size of the type.");
  }
}
