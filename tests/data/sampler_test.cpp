// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/data/sampler.hpp>

namespace {

/// Token number i is i.
struct counting {
  tenon::index_t length;
  tenon::index_t size() const { return length; }
  int vocabulary() const { return 1 << 30; }
  void copy(tenon::index_t first, std::span<std::int32_t> out) const {
    tenon::detail::check_range(first, out.size(), length);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::int32_t(first) + std::int32_t(i);
  }
};
static_assert(tenon::TokenSource<counting>);

}  // namespace

TEST_CASE("feistel_permutation is a permutation for every size, and another one for every number and seed") {
  for (std::uint64_t size : {1u, 2u, 3u, 4u, 5u, 7u, 16u, 17u, 63u, 64u, 65u, 255u, 257u, 1000u}) {
    for (std::uint64_t which : {0u, 1u, 9u}) {
      tenon::detail::feistel_permutation const p(size, 42, which);
      std::vector<int> hits(size, 0);
      for (std::uint64_t i = 0; i < size; ++i) ++hits.at(p(i));
      for (int h : hits) REQUIRE(h == 1);
    }
  }
  int same_number = 0, same_seed = 0;
  tenon::detail::feistel_permutation const a(1000, 42, 0), b(1000, 42, 1), c(1000, 43, 0);
  for (std::uint64_t i = 0; i < 1000; ++i) same_number += a(i) == b(i), same_seed += a(i) == c(i);
  CHECK(same_number < 10);
  CHECK(same_seed < 10);
}

TEST_CASE("feistel_permutation: an index goes everywhere equally often") {
  // Chi-squared with size - 1 degrees of freedom; 1.5 times that plus 20 is far out in the tail.
  for (std::uint64_t size : {2u, 3u, 5u, 12u, 31u}) {
    for (std::uint64_t index : {std::uint64_t(0), size - 1}) {
      int constexpr trials = 3000;
      std::vector<double> hits(size, 0.0);
      for (std::uint64_t which = 0; which < trials; ++which)
        ++hits[tenon::detail::feistel_permutation(size, 7, which)(index)];
      double const expected = double(trials) / double(size);
      double chi = 0;
      for (double h : hits) chi += (h - expected) * (h - expected) / expected;
      CHECK(chi < 1.5 * double(size - 1) + 20);
    }
  }
}

TEST_CASE("every window of an epoch comes once, and windows do not overlap as inputs") {
  for (tenon::index_t size : {2, 3, 9, 17, 100, 1001}) {
    for (tenon::index_t context : {1, 2, 8, 16}) {
      if (size < context + 1) continue;
      counting const source{size};
      tenon::batch_sampler const sampler(source, context, 5);
      auto const n = std::uint64_t(sampler.samples_per_epoch());
      CHECK(tenon::index_t(n) >= std::max<tenon::index_t>(1, (size - 1) / context - 1));
      for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
        std::set<tenon::index_t> begins;
        for (std::uint64_t i = 0; i < n; ++i) {
          auto const w = sampler.window(epoch * n + i);
          REQUIRE(w.epoch == epoch);
          REQUIRE(w.index == i);
          REQUIRE(w.begin >= 0);
          REQUIRE(w.begin + context + 1 <= size);
          begins.insert(w.begin);
        }
        REQUIRE(begins.size() == n);
        for (auto it = begins.begin(); std::next(it) != begins.end(); ++it) REQUIRE(*std::next(it) - *it == context);
      }
    }
  }
}

TEST_CASE("over epochs the beginning moves, so that every token is seen everywhere in a window") {
  counting const source{1000};
  tenon::batch_sampler const sampler(source, 16, 1);
  std::set<tenon::index_t> phases;
  for (std::uint64_t epoch = 0; epoch < 200; ++epoch)
    phases.insert(sampler.window(epoch * std::uint64_t(sampler.samples_per_epoch())).begin % 16);
  CHECK(phases.size() == 16);
}

TEST_CASE("samples do not depend on how they are cut into batches, nor on a pause between them") {
  counting const source{777};
  tenon::index_t constexpr context = 10;
  tenon::batch_sampler const one(source, context, 3);
  std::vector<std::int32_t> inputs(24 * context, -1), targets(24 * context, -1), again_in(24 * context, -1),
      again(24 * context, -1);
  one.fill(100, 24, inputs, targets);
  for (tenon::index_t batch : {1, 2, 3, 4, 8, 12}) {
    tenon::batch_sampler const resumed(source, context, 3);
    for (tenon::index_t s = 0; s < 24; s += batch)
      resumed.fill(std::uint64_t(100 + s), batch,
                   std::span(again_in).subspan(std::size_t(s * context), std::size_t(batch * context)),
                   std::span(again).subspan(std::size_t(s * context), std::size_t(batch * context)));
    CHECK(again_in == inputs);
    CHECK(again == targets);
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) CHECK(targets[i] == inputs[i] + 1);
  tenon::batch_sampler const other(source, context, 4);
  other.fill(100, 24, again_in, again);
  CHECK(again_in != inputs);
}

TEST_CASE("the order of samples is part of the format: it never changes from release to release") {
  counting const source{10000};
  tenon::batch_sampler const sampler(source, 64, 1234);
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::uint64_t g = 0; g < 1000; ++g) hash = (hash ^ std::uint64_t(sampler.window(g).begin)) * 0x100000001b3u;
  CHECK(hash == 17319626537057147059u);
}

TEST_CASE("sequential_windows goes through a text once, in order") {
  counting const source{25};
  tenon::sequential_windows const windows(source, 8);
  CHECK(windows.count() == 3);
  std::vector<std::int32_t> inputs(16), targets(16);
  windows.fill(1, 2, inputs, targets);
  for (int i = 0; i < 16; ++i) {
    CHECK(inputs[std::size_t(i)] == 8 + i);
    CHECK(targets[std::size_t(i)] == 9 + i);
  }
}

TEST_CASE("a text that is too short is named") {
  counting const source{8};
  CHECK(message_of([&] { tenon::batch_sampler s(source, 8, 1); }) ==
        "the text: has 8 tokens, but a context of 8 needs at least 9. Fix: more text, or a shorter context.");
  CHECK(is_one_sentence(message_of([&] { tenon::sequential_windows s(source, 8); })));
  CHECK(is_one_sentence(message_of([&] { tenon::batch_sampler s(source, 0, 1); })));
}
