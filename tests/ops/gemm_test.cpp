// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <bit>
#include <limits>
#include <string>
#include <vector>

#include <ref/gemm.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/host/gemm.hpp>

namespace {

using namespace tenon;

enum class stored { row_major, column_major };

/// A matrix with its own memory, a gap after each row (or column), filled with random values or with NaN.
template <class T>
struct owned {
  std::vector<T> data;
  matrix_view<T> view;
  owned(index_t rows, index_t cols, stored order, index_t gap = 3) {
    index_t const major = order == stored::row_major ? rows : cols, minor = order == stored::row_major ? cols : rows;
    data.assign(std::size_t(major * (minor + gap) + 1), T(std::numeric_limits<float>::quiet_NaN()));
    view = matrix(data.data(), major, minor, minor + gap);
    if (order == stored::column_major) view = transposed(view);
  }
  owned(index_t rows, index_t cols, stored order, char const* name) : owned(rows, cols, order) {
    random_stream const random(7, name);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j) view(i, j) = T(2 * random.uniform(std::uint64_t(i), std::uint64_t(j)) - 1);
  }
};

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

struct problem {
  index_t m, n, k, leaf;
  stored a = stored::row_major, b = stored::row_major, c = stored::row_major;
  int threads = 1;
  std::vector<ops::k_piece> pieces{};
};

/// Every element against the written order, bit for bit; nothing outside c is touched.
template <class C, class A, class B>
void check_bits(problem const& p) {
  CAPTURE(p.m);
  CAPTURE(p.n);
  CAPTURE(p.k);
  CAPTURE(p.leaf);
  CAPTURE(p.threads);
  owned<A> a(p.m, p.k, p.a, "a");
  owned<B> b(p.k, p.n, p.b, "b");
  owned<C> c(p.m, p.n, p.c);
  exec::host_context ctx(p.threads);
  ops::gemm(ctx, ops::gemm_args<C, A, B>{.c = c.view, .a = a.view, .b = b.view, .leaf = p.leaf, .pieces = p.pieces});
  auto const pieces = p.pieces.empty() ? std::vector<ops::k_piece>{{p.k, p.leaf}} : p.pieces;
  index_t wrong = 0, written = 0;
  for (auto const& x : c.data) written += float(x) == float(x);
  for (index_t i = 0; i < p.m; ++i)
    for (index_t j = 0; j < p.n; ++j)
      wrong += float(c.view(i, j)) != float(C(ref::gemm_element_in_order<A, B>(a.view, b.view, pieces, i, j)));
  CHECK(wrong == 0);
  CHECK(written == p.m * p.n);
}

}  // namespace

TEST_CASE("gemm: the written order on ones, primes and odd tails") {
  for (auto [m, n, k] : {std::array<index_t, 3>{1, 1, 1},
                         {1, 1, 37},
                         {5, 1, 3},
                         {1, 33, 2},
                         {12, 32, 16},
                         {13, 31, 17},
                         {24, 64, 64},
                         {29, 71, 131},
                         {7, 100, 400},
                         {47, 16, 385},
                         {3, 17, 1201},
                         {11, 97, 53}})
    for (index_t leaf : {index_t(0), index_t(1), index_t(5), index_t(16), index_t(48), index_t(400)}) {
      check_bits<float, float, float>({m, n, k, leaf});
      check_bits<float, float, float>({m, n, k, leaf, stored::row_major, stored::column_major, stored::row_major, 2});
    }
}

TEST_CASE("gemm: every orientation of every operand") {
  for (int mask = 0; mask < 8; ++mask) {
    auto const order = [&](int bit) { return mask >> bit & 1 ? stored::column_major : stored::row_major; };
    check_bits<float, float, float>({37, 53, 70, 16, order(0), order(1), order(2), 3});
    check_bits<bf16, fp16, float>({37, 53, 70, 16, order(0), order(1), order(2), 3});
  }
}

TEST_CASE("gemm: leaves shorter than, equal to and longer than a block of k, cut over several outer blocks") {
  index_t const block = ops::detail::gemm_block_k;
  for (index_t k : {block - 1, block, block + 1, 2 * block, 3 * block + 5, index_t(9216)})
    for (index_t leaf : {index_t(0), index_t(32), index_t(64), index_t(112), block, block + 16, 2 * block - 1})
      check_bits<float, float, float>({13, 35, k, leaf, stored::column_major, stored::row_major, stored::row_major, 2});
}

TEST_CASE("gemm: few rows, many columns, several threads") {
  for (index_t m : {index_t(1), index_t(2), index_t(3), index_t(4), index_t(9)})
    for (auto order : {stored::row_major, stored::column_major})
      for (index_t leaf : {index_t(0), index_t(48)}) {
        check_bits<float, float, float>({m, 4501, 133, leaf, stored::row_major, order, stored::row_major, 3});
        check_bits<float, float, bf16>({m, 2310, 133, leaf, stored::row_major, order, stored::row_major, 2});
      }
}

TEST_CASE("gemm: more k than fits into packed memory keeps the order") {
  index_t const rows = ops::detail::gemm_plan::least_range * 2 + 13;
  owned<float> a(rows, 5003, stored::row_major, "a"), b(5003, 37, stored::row_major, "b"),
      c(rows, 37, stored::row_major);
  exec::host_context ctx(2);
  for (index_t leaf : {index_t(0), index_t(224), index_t(2096)}) {
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = c.view, .a = a.view, .b = b.view, .leaf = leaf});
    for (index_t i = 0; i < rows; i += 29)
      for (index_t j = 0; j < 37; j += 4)
        CHECK(bits_of(c.view(i, j)) == bits_of(ref::gemm_element_in_order<float, float>(a.view, b.view, leaf, i, j)));
  }
}

TEST_CASE("gemm: pieces of k, leaf j of the sum is leaf j of each") {
  auto const rows = [](std::vector<ops::k_piece> const& pieces) {
    index_t n = 0;
    for (auto const& p : pieces) n += p.rows;
    return n;
  };
  for (std::vector<ops::k_piece> const& pieces : {std::vector<ops::k_piece>{{70, 16}},
                                                  {{5, 0}, {12, 16}},
                                                  {{64, 16}, {64, 16}},
                                                  {{256, 64}, {64, 16}, {64, 16}},       // grouped queries
                                                  {{1, 1}, {7, 9}, {3, 4}},              // one leaf
                                                  {{67, 16}, {9, 2}, {141, 32}},         // short last leaves
                                                  {{768, 192}, {768, 192}, {768, 192}},  // several blocks to a leaf
                                                  {{1000, 208}, {1000, 208}},
                                                  {{600, 0}, {200, 0}},
                                                  {{40, 1}, {80, 2}}})
    for (index_t m : {index_t(1), index_t(2), index_t(4), index_t(13), index_t(61)})
      for (int mask = 0; mask < 8; ++mask) {
        auto const order = [&](int bit) { return mask >> bit & 1 ? stored::column_major : stored::row_major; };
        problem const p{m, 45, rows(pieces), 0, order(0), order(1), order(2), 1 + mask % 2, pieces};
        check_bits<float, float, float>(p);
        if (m == 13) check_bits<bf16, bf16, fp16>(p);
      }
  std::vector<ops::k_piece> const long_pieces{{3000, 752}, {750, 188}, {750, 188}};  // k in several rounds of packing
  check_bits<float, float, float>(
      {600, 33, 4500, 0, stored::row_major, stored::row_major, stored::row_major, 2, long_pieces});
}

namespace {

/// The whole product against one cut by leaves over `ranks`, whose parts are added pairwise.
void check_ranks(std::vector<ops::k_piece> const& pieces, int ranks) {
  CAPTURE(ranks);
  index_t const m = 23, n = 37, leaves = pieces[0].leaves(), share = 8 / ranks;
  index_t k = 0;
  for (auto const& p : pieces) k += p.rows;
  owned<float> a(m, k, stored::row_major, "a"), b(k, n, stored::row_major, "b"), whole(m, n, stored::row_major);
  exec::host_context ctx(2);
  ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = whole.view, .a = a.view, .b = b.view, .pieces = pieces});
  tree<std::vector<float>> sum;
  auto const add = [](std::vector<float>& left, std::vector<float> const& right) {
    for (std::size_t i = 0; i < left.size(); ++i) left[i] = left[i] + right[i];
  };
  for (index_t first_leaf = 0; first_leaf < leaves; first_leaf += share) {
    std::vector<ops::k_piece> held;
    std::vector<float> held_a, held_b, part(std::size_t(m * n));
    std::vector<index_t> held_k;
    index_t first = 0;
    for (auto const& p : pieces) {
      index_t const begin = first_leaf * p.leaf_rows(), end = std::min(begin + share * p.leaf_rows(), p.rows);
      held.push_back({end - begin, p.leaf_rows()});
      for (index_t i = begin; i < end; ++i) held_k.push_back(first + i);
      first += p.rows;
    }
    for (index_t i = 0; i < m; ++i)
      for (index_t at : held_k) held_a.push_back(a.view(i, at));
    for (index_t at : held_k)
      for (index_t j = 0; j < n; ++j) held_b.push_back(b.view(at, j));
    index_t const count = index_t(held_k.size());
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = matrix(part.data(), m, n),
                                                       .a = matrix<float const>(held_a.data(), m, count),
                                                       .b = matrix<float const>(held_b.data(), count, n),
                                                       .pieces = held});
    sum.push(part, add);
  }
  auto const total = sum.finish(add);
  index_t wrong = 0;
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) wrong += bits_of(total[std::size_t(i * n + j)]) != bits_of(whole.view(i, j));
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("gemm: ranks that hold whole leaves, added as a tree, give the bits of the whole") {
  for (int ranks : {1, 2, 4, 8}) {
    for (index_t k : {index_t(128), index_t(1000), index_t(3072), index_t(99)})
      check_ranks({{k, reduction_order::feature_leaf(k)}}, ranks);
    check_ranks({{512, 64}, {128, 16}, {128, 16}}, ranks);
    check_ranks({{1000, 128}, {1000, 128}}, ranks);
  }
}

TEST_CASE("gemm: close to float64") {
  owned<float> a(61, 300, stored::row_major, "a"), b(300, 45, stored::column_major, "b"), c(61, 45, stored::row_major);
  exec::host_context ctx(1);
  for (auto const& pieces : {std::vector<ops::k_piece>{{300, 16}}, {{201, 16}, {50, 4}, {49, 4}}}) {
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = c.view, .a = a.view, .b = b.view, .pieces = pieces});
    for (index_t i = 0; i < 61; ++i)
      for (index_t j = 0; j < 45; ++j)
        CHECK(std::abs(c.view(i, j) - ref::gemm_element<float, float>(a.view, b.view, i, j)) <=
              40 * 0x1p-24 * ref::gemm_magnitude<float, float>(a.view, b.view, i, j));
  }
}

TEST_CASE_TEMPLATE("gemm: element types mix", T, float, bf16, fp16) {
  problem const p{19, 50, 150, 32};
  check_bits<float, T, float>(p);
  check_bits<float, float, T>(p);
  check_bits<float, T, bf16>(p);
  check_bits<T, T, T>(p);
  check_bits<T, float, fp16>(p);
}

namespace {

/// Epilogue against its definition, each step rounded once.
template <class C>
void check_epilogue(stored c_order, stored other_order, ops::activation_kind activation, bool accumulate) {
  index_t const m = 27, n = 53, k = 40;
  owned<C> a(m, k, stored::row_major, "a"), b(k, n, stored::column_major, "b"), c(m, n, c_order, "c"),
      residual(m, n, other_order, "residual"), pre(m, n, other_order);
  owned<float> bias(1, n, stored::row_major, "bias");
  auto const old = c;
  std::vector<C> before = c.data;
  exec::host_context ctx(2);
  ops::gemm(ctx, ops::gemm_args<C, C, C>{.c = c.view,
                                         .a = a.view,
                                         .b = b.view,
                                         .leaf = 16,
                                         .accumulate = accumulate,
                                         .bias = bias.data.data(),
                                         .activation = activation,
                                         .residual = residual.view,
                                         .pre_activation = pre.view});
  index_t wrong = 0, wrong_pre = 0;
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      float x = ref::gemm_element_in_order<C, C>(a.view, b.view, 16, i, j) + bias.view(0, j);
      wrong_pre += float(pre.view(i, j)) != float(C(x));
      float y[lanes];
      simd::store(y, ops::apply_activation(activation, simd::broadcast(x)));
      x = y[0] + float(residual.view(i, j));
      if (accumulate) x = x + float(before[std::size_t(&c.view(i, j) - c.data.data())]);
      wrong += float(c.view(i, j)) != float(C(x));
    }
  CHECK(wrong == 0);
  CHECK(wrong_pre == 0);
}

}  // namespace

TEST_CASE_TEMPLATE("gemm: bias, pre-activation, activation, residual, accumulate", C, float, bf16) {
  using ops::activation_kind;
  for (auto order : {stored::row_major, stored::column_major})
    for (auto other : {stored::row_major, stored::column_major})
      for (bool accumulate : {false, true}) {
        check_epilogue<C>(order, other, activation_kind::none, accumulate);
        check_epilogue<C>(order, other, activation_kind::gelu_tanh, accumulate);
        check_epilogue<C>(order, other, activation_kind::relu, accumulate);
      }
}

TEST_CASE("gemm: residual may be c itself") {
  owned<float> a(30, 20, stored::row_major, "a"), b(20, 40, stored::row_major, "b"), c(30, 40, stored::row_major, "c");
  auto const before = c.data;
  exec::host_context ctx(1);
  ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = c.view, .a = a.view, .b = b.view, .residual = c.view});
  for (index_t i = 0; i < 30; ++i)
    for (index_t j = 0; j < 40; ++j)
      CHECK(c.view(i, j) == ref::gemm_element_in_order<float, float>(a.view, b.view, 0, i, j) +
                                before[std::size_t(&c.view(i, j) - c.data.data())]);
}

TEST_CASE("gemm: nothing to sum is +0 through the epilogue, nothing to write is nothing") {
  exec::host_context ctx(2);
  owned<float> a(5, 0, stored::row_major), b(0, 19, stored::row_major), c(5, 19, stored::row_major);
  owned<float> bias(1, 19, stored::row_major, "bias");
  ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = c.view, .a = a.view, .b = b.view, .bias = bias.data.data()});
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 19; ++j) CHECK(c.view(i, j) == bias.view(0, j));
  owned<float> none(0, 7, stored::row_major), some(7, 19, stored::row_major, "some"), empty(0, 19, stored::row_major);
  ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = empty.view, .a = none.view, .b = some.view});
}

TEST_CASE("gemm: a result does not depend on threads, neighbours or where it lies") {
  owned<float> a(97, 700, stored::row_major, "a"), b(700, 130, stored::row_major, "b"), all(97, 130, stored::row_major);
  exec::host_context one(1);
  ops::gemm(one, ops::gemm_args<float, float, float>{.c = all.view, .a = a.view, .b = b.view, .leaf = 48});
  for (int threads : {2, 3, 8}) {
    exec::host_context ctx(threads);
    owned<float> c(97, 130, stored::row_major), part(5, 7, stored::row_major);
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = c.view, .a = a.view, .b = b.view, .leaf = 48});
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = part.view,
                                                       .a = rows_of(a.view, 90, 5),
                                                       .b = columns_of(b.view, 121, 7),
                                                       .leaf = 48});
    index_t wrong = 0;
    for (index_t i = 0; i < 97; ++i)
      for (index_t j = 0; j < 130; ++j) wrong += bits_of(c.view(i, j)) != bits_of(all.view(i, j));
    for (index_t i = 0; i < 5; ++i)
      for (index_t j = 0; j < 7; ++j) wrong += bits_of(part.view(i, j)) != bits_of(all.view(90 + i, 121 + j));
    CHECK(wrong == 0);
  }
}

TEST_CASE("gemm: shapes and strides that do not fit are refused") {
  exec::host_context ctx(1);
  std::vector<float> v(1000);
  auto const m = [&](index_t rows, index_t cols) { return matrix(v.data(), rows, cols); };
  using args = ops::gemm_args<float, float, float>;
  CHECK_THROWS_AS(ops::gemm(ctx, args{.c = m(3, 4), .a = m(3, 5), .b = m(6, 4)}), argument_error);
  CHECK_THROWS_AS(ops::gemm(ctx, args{.c = m(3, 4), .a = m(2, 5), .b = m(5, 4)}), argument_error);
  CHECK_THROWS_AS(ops::gemm(ctx, args{.c = m(3, 4), .a = m(3, 5), .b = m(5, 4), .residual = m(3, 3)}), argument_error);
  ops::k_piece const unlike[] = {{3, 1}, {2, 1}}, too_few[] = {{2, 0}, {2, 0}}, none[] = {{5, 0}, {0, 0}};
  for (std::span<ops::k_piece const> pieces : {std::span(unlike), std::span(too_few), std::span(none)})
    CHECK_THROWS_AS(ops::gemm(ctx, args{.c = m(3, 4), .a = m(3, 5), .b = m(5, 4), .pieces = pieces}), argument_error);
  matrix_view<float> const gaps{v.data(), {extents<dynamic, dynamic>(3, 5), {20, 2}}};
  CHECK_THROWS_AS(ops::gemm(ctx, args{.c = m(3, 4), .a = gaps, .b = m(5, 4)}), argument_error);
}
