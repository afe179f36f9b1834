// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/policy/set.hpp>

using namespace tenon;

TEST_CASE("a set takes policies in any order and has a default on every axis") {
  using a = policies<data<2>, precision::bf16_mixed, zero<1>, comm::mpi>;
  using b = policies<comm::mpi, zero<1>, precision::bf16_mixed, data<2>>;
  CHECK(std::same_as<a::precision, b::precision>);
  CHECK(a::data::degree == 2);
  CHECK(b::zero::stage == 1);
  CHECK(std::same_as<a::memory, memory::keep>);
  CHECK(std::same_as<a::arithmetic, arithmetic::bitwise>);
  CHECK(std::is_void_v<a::sequence>);
  CHECK(a::mesh_size() == 2);
  CHECK(policies<data<2>, tensor<3>, pipeline<4>, context<2>, expert<2>>::mesh_size() == 96);
  CHECK(policies<data<dynamic>, tensor<3>>::mesh_size() == dynamic);
}

TEST_CASE("leaves of the bitwise order are functions of the extent; the fast order has none") {
  CHECK(arithmetic::bitwise::feature_leaf(3072) == 384);
  CHECK(arithmetic::bitwise::token_leaf(4096) == 512);
  CHECK(arithmetic::bitwise::token_leaf(256) == 64);
  CHECK(arithmetic::bitwise::token_leaf(100) == 100);  // does not divide: one leaf
  for (index_t t = 1; t < 3000; ++t) {
    index_t const leaf = arithmetic::bitwise::token_leaf(t), count = t / leaf;
    CHECK(t % leaf == 0);
    CHECK((count & (count - 1)) == 0);
  }
  CHECK(arithmetic::bitwise::head_leaf(12, 64) == 3 * 64);
  CHECK(arithmetic::bitwise::head_leaf(25, 64) == 25 * 64);  // odd: one leaf
  CHECK(arithmetic::bitwise::head_leaf(32, 128) == 4 * 128);
  CHECK(arithmetic::bitwise::head_leaf(2, 96) == 96);
  CHECK(arithmetic::fast::feature_leaf(3072) == 0);
  CHECK(arithmetic::fast::head_leaf(12, 64) == 0);
}
