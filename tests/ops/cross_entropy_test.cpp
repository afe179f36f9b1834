// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <barrier>
#include <thread>

#include <tenon/ops/host/cross_entropy.hpp>

#include "ref/cross_entropy.hpp"
#include "ref/values.hpp"

using namespace tenon;

namespace {

template <class T>
struct problem {
  index_t t, c, v;
  index_t leaf_tokens = 16, leaf_vocabulary = 0;
  float cap = 0, scale = 0.25f;
  std::vector<T> hidden = ref::random_values<T>(t * c, 1, 1.5), weight = ref::random_values<T>(v * c, 2, 1.5);
  std::vector<std::int32_t> targets = make_targets();
  std::vector<float> losses = ref::poison(t), d_weight = ref::poison(v * c);
  std::vector<T> d_hidden = ref::poison<T>(t * c);

  ops::linear_cross_entropy_args<T> args() {
    return {.hidden = matrix<T const>(hidden.data(), t, c),
            .weight = matrix<T const>(weight.data(), v, c),
            .targets = targets,
            .losses = losses.data(),
            .d_hidden = matrix(d_hidden.data(), t, c),
            .d_weight = matrix(d_weight.data(), v, c),
            .gradient_scale = scale,
            .leaf_tokens = leaf_tokens,
            .leaf_vocabulary = leaf_vocabulary,
            .soft_cap = cap};
  }
  void run(ops::linear_cross_entropy_args<T> const& a, int threads = 2) {
    exec::host_context ctx(threads);
    ops::linear_cross_entropy(ctx, a);
  }
  void run() { run(args()); }
  std::uint64_t hash() const { return ref::hash(losses, ref::hash(d_hidden, ref::hash(d_weight))); }

 private:
  std::vector<std::int32_t> make_targets() const {
    std::vector<std::int32_t> r;
    for (index_t i = 0; i < t; ++i) r.push_back(i % 5 == 3 ? -1 : std::int32_t((i * 7919 + v - 1) % v));
    return r;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("losses and gradients agree with the reference", T, float, bf16, fp16) {
  for (auto const& shape : {std::array<index_t, 3>{1, 1, 1}, {1, 3, 17}, {9, 16, 65}, {33, 20, 131}, {7, 5, 2500}})
    for (float const cap : {0.0f, 3.0f}) {
      index_t const t = shape[0], c = shape[1], v = shape[2];
      CAPTURE(v);
      CAPTURE(cap);
      problem<T> p{.t = t, .c = c, .v = v, .cap = cap};
      p.run();
      auto const r = ref::cross_entropy(ref::as_double(p.hidden), ref::as_double(p.weight), p.targets, c, p.scale, cap);
      CHECK(ref::error(p.losses, r.losses) < 2e-6);
      CHECK(ref::error(p.d_hidden, r.d_hidden) < ref::tolerance<T>(2e-6));
      CHECK(ref::error(p.d_weight, r.d_weight) < 2e-6);
    }
}

TEST_CASE("the reference's gradients are its central differences") {
  problem<float> p{.t = 4, .c = 3, .v = 11};
  auto const h = ref::as_double(p.hidden), w = ref::as_double(p.weight);
  for (double const cap : {0.0, 2.0}) {
    auto const total = [&](auto const& a, auto const& b) {
      double s = 0;
      for (double const l : ref::cross_entropy(a, b, p.targets, 3, 0.5, cap).losses) s += 0.5 * l;
      return s;
    };
    auto const r = ref::cross_entropy(h, w, p.targets, 3, 0.5, cap);
    CHECK(ref::error(r.d_hidden, ref::central_differences(h, [&](auto const& x) { return total(x, w); })) < 1e-8);
    CHECK(ref::error(r.d_weight, ref::central_differences(w, [&](auto const& x) { return total(h, x); })) < 1e-8);
  }
}

TEST_CASE("neither workspace nor threads change a bit") {
  for (index_t const leaf : {0, 1040, 640}) {
    std::uint64_t expected = 0;
    for (std::size_t const workspace :
         {std::size_t(1) << 30, std::size_t(0), std::size_t(2 * 9 * 1792 * 4), std::size_t(4 * 9 * 1792 * 4)})
      for (int const threads : {1, 3}) {
        problem<float> p{.t = 9, .c = 20, .v = 7301, .leaf_vocabulary = leaf, .cap = 5.0f};
        auto a = p.args();
        a.workspace_bytes = workspace;
        p.run(a, threads);
        if (!expected) expected = p.hash();
        CHECK(p.hash() == expected);
      }
  }
}

TEST_CASE("blocks of the vocabulary give the bits of one multiplication over all of it") {
  for (index_t const v : {1500, 3000, 5000, 7301}) {
    index_t const leaf = 1040;  // blocks of one leaf: 2, 3, 5 and 8
    problem<float> p{.t = 9, .c = 20, .v = v, .leaf_vocabulary = leaf};
    p.run();
    exec::host_context ctx(2);
    std::vector<float> logits(std::size_t(p.t * v));
    auto const whole = matrix(logits.data(), p.t, v);
    auto const weight = matrix<float const>(p.weight.data(), v, p.c),
               hidden = matrix<float const>(p.hidden.data(), p.t, p.c);
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = whole, .a = hidden, .b = transposed(weight)});
    for (index_t t = 0; t < p.t; ++t) {
      float* const row = logits.data() + t * v;
      std::vector<float> maxima, sums;
      for (index_t begin = 0; begin < v; begin += leaf) {
        maxima.push_back(0), sums.push_back(0);
        ops::detail::leaf_statistics(row + begin, std::min(leaf, v - begin), maxima.back(), sums.back());
      }
      float const maximum = *std::max_element(maxima.begin(), maxima.end());
      float const sum = ops::detail::rescaled_sum(maxima.data(), sums.data(), index_t(sums.size()), maximum);
      index_t const target = p.targets[std::size_t(t)];
      if (target < 0) std::fill(row, row + v, 0.0f);
      else ops::detail::logits_to_gradient(row, v, target, maximum, p.scale / sum, p.scale, 0);
    }
    auto d_hidden = ref::poison(p.t * p.c), d_weight = ref::poison(v * p.c);
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = matrix(d_hidden.data(), p.t, p.c),
                                                       .a = as_const(whole),
                                                       .b = weight,
                                                       .leaf = leaf});
    ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = matrix(d_weight.data(), v, p.c),
                                                       .a = transposed(as_const(whole)),
                                                       .b = hidden,
                                                       .leaf = 16});
    CHECK(ref::same_bits(p.d_hidden, d_hidden));
    CHECK(ref::same_bits(p.d_weight, d_weight));
  }
}

TEST_CASE("forward alone, one gradient alone, accumulation, errors") {
  problem<float> all{.t = 6, .c = 8, .v = 2100};
  all.run();
  problem<float> forward{.t = 6, .c = 8, .v = 2100};
  auto a = forward.args();
  a.d_hidden = {}, a.d_weight = {};
  forward.run(a);
  CHECK(ref::same_bits(forward.losses, all.losses));
  CHECK(forward.losses[3] == 0.0f);  // ignored
  a.d_hidden = matrix(forward.d_hidden.data(), 6, 8);
  forward.run(a);
  CHECK(ref::same_bits(forward.d_hidden, all.d_hidden));
  a.d_hidden = {}, a.d_weight = matrix(forward.d_weight.data(), 2100, 8), a.accumulate_weight_gradient = true;
  std::fill(forward.d_weight.begin(), forward.d_weight.end(), 1.0f);
  forward.run(a);
  bool same = true;
  for (std::size_t i = 0; i < all.d_weight.size(); ++i) same = same && forward.d_weight[i] == 1.0f + all.d_weight[i];
  CHECK(same);
  forward.targets[0] = 2100;
  CHECK_THROWS_AS(forward.run(a), argument_error);
}

namespace {

/// A sum over ranks that are threads.
struct rank_sum {
  explicit rank_sum(int ranks) : all_here(ranks), parts(static_cast<std::size_t>(ranks)) {}
  void add(std::size_t rank, std::span<float> values) {
    parts[rank].assign(values.begin(), values.end());
    all_here.arrive_and_wait();
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = -0.0f;
      for (auto const& part : parts) values[i] += part[i];
    }
  }

 private:
  std::barrier<> all_here;
  std::vector<std::vector<float>> parts;
};

/// The vocabulary cut over ranks against the whole.
template <class T>
void check_ranks(index_t ranks, index_t vocabulary, float cap, std::size_t workspace) {
  CAPTURE(ranks);
  CAPTURE(vocabulary);
  problem<T> whole{.t = 9, .c = 20, .v = vocabulary, .cap = cap};
  std::vector<float> d_hidden = ref::poison(whole.t * whole.c);  // of the whole, unrounded
  auto all = whole.args();
  all.d_hidden = {}, all.d_hidden_partial = matrix(d_hidden.data(), whole.t, whole.c);
  whole.run(all);
  index_t const leaf = reduction_order::feature_leaf(vocabulary), share = 8 / ranks * leaf;
  rank_sum sum{int(ranks)};
  auto const count = static_cast<std::size_t>(ranks);
  std::vector<std::vector<float>> losses(count), parts(count);
  std::vector<float> d_weight = ref::poison(vocabulary * whole.c);
  auto const run_rank = [&](std::size_t r) {
    index_t const first = std::min(index_t(r) * share, vocabulary), rows = std::min(share, vocabulary - first);
    losses[r] = ref::poison(whole.t), parts[r] = ref::poison(whole.t * whole.c);
    auto a = whole.args();
    a.weight = rows_of(a.weight, first, rows);
    a.losses = losses[r].data();
    a.d_hidden = {}, a.d_hidden_partial = matrix(parts[r].data(), whole.t, whole.c);
    a.d_weight = rows_of(matrix(d_weight.data(), vocabulary, whole.c), first, rows);
    a.first_row = first, a.vocabulary = vocabulary, a.workspace_bytes = workspace;
    auto exchange = [&, r](std::span<float> values) { sum.add(r, values); };
    a.sum_over_ranks = {[](void* f, std::span<float> v) { (*static_cast<decltype(exchange)*>(f))(v); }, &exchange};
    whole.run(a, 1);
  };
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < count; ++r) threads.emplace_back(run_rank, r);
  for (auto& thread : threads) thread.join();
  for (auto const& l : losses) CHECK(ref::same_bits(l, whole.losses));
  for (std::size_t apart = 1; apart < count; apart *= 2)
    for (std::size_t r = 0; r < count; r += 2 * apart)
      for (std::size_t i = 0; i < d_hidden.size(); ++i) parts[r][i] += parts[r + apart][i];
  CHECK(ref::same_bits(parts[0], d_hidden));
  CHECK(ref::same_bits(d_weight, whole.d_weight));
}

}  // namespace

TEST_CASE_TEMPLATE("a vocabulary cut over ranks gives the bits of the whole", T, float, bf16) {
  for (index_t const ranks : {1, 2, 4, 8})
    for (index_t const vocabulary : {128, 65, 13, 5000})  // 65: five leaves, the last rank of four has none
      for (float const cap : {0.0f, 3.0f}) {
        check_ranks<T>(ranks, vocabulary, cap, std::size_t(1) << 30);
        check_ranks<T>(ranks, vocabulary, cap, 0);
      }
}

TEST_CASE("rows of a rank that are not whole leaves are refused") {
  problem<float> p{.t = 2, .c = 4, .v = 64};
  auto a = p.args();
  for (auto [first, vocabulary] : {std::pair<index_t, index_t>{8, 256}, {256, 256}, {32, 0}, {-32, 256}, {32, 90}}) {
    a.first_row = first, a.vocabulary = vocabulary;
    CHECK_THROWS_AS(p.run(a), argument_error);
  }
}

TEST_CASE("no tokens: the gradient of the weight is zero") {
  problem<float> p{.t = 0, .c = 4, .v = 30};
  p.run();
  for (float const d : p.d_weight) CHECK(d == 0.0f);
}

TEST_CASE("large logits do not overflow") {
  problem<float> p{.t = 2, .c = 4, .v = 40};
  for (auto& h : p.hidden) h *= 100;  // exp would be infinite in fp32
  p.run();
  auto const r = ref::cross_entropy(ref::as_double(p.hidden), ref::as_double(p.weight), p.targets, 4, p.scale, 0);
  CHECK(p.losses[0] == doctest::Approx(r.losses[0]));
  CHECK(ref::error(p.d_hidden, r.d_hidden) < 1e-4);
}
