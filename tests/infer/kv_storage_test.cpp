// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstring>
#include <span>
#include <vector>

#include <ref/values.hpp>
#include <tenon/infer/kv_storage.hpp>
#include <tenon/ops/host/paged_attention.hpp>

namespace {

using tenon::index_t;
using tenon::infer::kv_layer;
namespace ops = tenon::ops;
namespace kv = tenon::kv;

// Two groups: layers 0 and 3 keep everything, layers 1 and 2 a window of 20; widths and heads differ.
std::vector<kv_layer> const layers{{2, 32, 0}, {1, 16, 20}, {4, 24, 20}, {1, 64, 0}};

template <class E>
std::byte* bytes_of(ops::kv_pages<E> const& v, index_t page) {
  return v.data + page * (v.page_bytes() + v.gap);
}
template <class E>
void fill(tenon::infer::kv_storage<E>& cache) {
  for (int l = 0; l < cache.layers(); ++l) {
    auto const& v = cache.layer(l);
    for (index_t p = 0; p < v.pages; ++p)
      for (index_t i = 0; i < v.page_bytes(); ++i) bytes_of(v, p)[i] = std::byte(i * 31 + i / 251 + l + 7 * p);
  }
}
template <class E>
std::vector<std::byte> contents(tenon::infer::kv_storage<E> const& cache, int layer, index_t page) {
  auto const& v = cache.layer(layer);
  return {bytes_of(v, page), bytes_of(v, page) + v.page_bytes()};
}

}  // namespace

TEST_CASE("a storage has a group per window, and pages that do not overlap") {
  tenon::infer::kv_storage<float> cache(layers, 32, std::vector<index_t>{5, 3});
  CHECK(cache.layers() == 4);
  CHECK(cache.groups() == 2);
  CHECK(cache.window(0) == 0);
  CHECK(cache.window(1) == 20);
  CHECK(cache.group(2) == 1);
  CHECK(cache.group(3) == 0);
  CHECK(cache.page_bytes(0) == 32 * 2 * 4 * (2 * 32 + 64));
  CHECK(cache.page_bytes(1) == 32 * 2 * 4 * (16 + 4 * 32));  // 24 features take the room of 32
  CHECK(cache.bytes() >= 5 * cache.page_bytes(0) + 3 * cache.page_bytes(1));
  // Page by page: of a group all layers, one after the other.
  std::byte const* end = cache.layer(0).data;
  for (int g = 0; g < 2; ++g)
    for (index_t p = 0; p < cache.layer(g).pages; ++p)
      for (int l = 0; l < 4; ++l) {
        if (cache.group(l) != g) continue;
        CHECK(bytes_of(cache.layer(l), p) == end);
        CHECK(reinterpret_cast<std::uintptr_t>(end) % 64 == 0);
        end += cache.layer(l).page_bytes();
      }
  CHECK(std::size_t(end - cache.layer(0).data) <= cache.bytes());
  using q8 = tenon::infer::kv_storage<kv::q8>;
  CHECK(q8(layers, 16, std::vector<index_t>{1, 1}).page_bytes(0) == 16 * 2 * ((2 * 32 + 64) + 3 * 4));
}

TEST_CASE("a page is copied in all layers of its group and in no other") {
  tenon::infer::kv_storage<tenon::bf16> cache(layers, 16, std::vector<index_t>{4, 4});
  fill(cache);
  std::vector<std::vector<std::byte>> before;
  for (int l = 0; l < 4; ++l)
    for (index_t p = 0; p < 4; ++p) before.push_back(contents(cache, l, p));
  cache.copy_page(1, 3, 1);
  for (int l = 0; l < 4; ++l)
    for (index_t p = 0; p < 4; ++p)
      CHECK(contents(cache, l, p) == before[std::size_t(4 * l + (cache.group(l) == 1 && p == 1 ? 3 : p))]);
}

TEST_CASE("pages that are swapped out come back in other places") {
  tenon::infer::kv_storage<kv::q8> cache(layers, 16, std::vector<index_t>{6, 6});
  fill(cache);
  std::vector<std::int32_t> const from{-1, 4, 0}, to{-1, 2, 5};
  std::vector<std::byte> page[2][4];
  for (int l = 0; l < 4; ++l) page[0][l] = contents(cache, l, 4), page[1][l] = contents(cache, l, 0);
  for (int group = 0; group < 2; ++group) {
    auto const kept = cache.swap_out(group, from);
    CHECK(kept.size() == 2 * cache.page_bytes(group));
    cache.swap_in(group, to, kept);
    CHECK_THROWS_AS(cache.swap_in(group, std::vector<std::int32_t>{1}, kept), tenon::argument_error);
  }
  for (int l = 0; l < 4; ++l) {
    CHECK(contents(cache, l, 2) == page[0][l]);
    CHECK(contents(cache, l, 5) == page[1][l]);
    CHECK(contents(cache, l, 4) == page[0][l]);
  }
}

TEST_CASE("how many pages a demand needs") {
  using storage = tenon::infer::kv_storage<float>;
  auto const pages = [](index_t page_tokens, tenon::infer::kv_demand d) {
    return storage::pages_for(layers, page_tokens, d);
  };
  CHECK(pages(16, {1, 1000, 1000, 1}) == std::vector<index_t>{63, 3});  // 20 tokens touch at most 3 pages of 16
  CHECK(pages(16, {1, 1000, 1000, 64}) == std::vector<index_t>{63, 7});
  CHECK(pages(16, {4, 100, 250, 1}) == std::vector<index_t>{19, 12});
  CHECK(pages(16, {4, 16, 64, 1}) == std::vector<index_t>{4, 4});
  CHECK(pages(112, {3, 100, 300, 1}) == std::vector<index_t>{3, 3});
  // Enough: no way to cut the tokens into sequences takes more.
  for (index_t first = 0; first <= 90; ++first) {
    index_t const all = tenon::ceil_div(first, index_t(16)) + tenon::ceil_div(90 - first, index_t(16));
    CHECK(all <= pages(16, {2, 90, 90, 1})[0]);
  }
  // And of a window: wherever the step begins.
  for (index_t position = 0; position < 200; ++position) {
    index_t const first = std::max<index_t>(0, position - 19), last = position + 6;
    CHECK(last / 16 - first / 16 + 1 <= pages(16, {1, 1000, 1000, 7})[1]);
  }
  tenon::infer::kv_demand demand{4, 1000, 4000, 16};
  std::size_t const budget = 3000000;
  demand.tokens = storage::tokens_within(budget, layers, 16, demand);
  CHECK(demand.tokens > 1000);
  CHECK(storage::bytes_for(layers, 16, storage::pages_for(layers, 16, demand)) <= budget);
  ++demand.tokens;
  CHECK(storage::bytes_for(layers, 16, storage::pages_for(layers, 16, demand)) > budget);
  CHECK(storage::tokens_within(100, layers, 16, demand) == 0);
  CHECK(storage::tokens_within(std::size_t(1) << 40, layers, 16, {4, 100, 5000, 16}) == 400);
}

TEST_CASE("the sizes of pages come from the policy") {
  CHECK(kv::paged<32>::page_tokens(1000) == 32);
  CHECK(kv::contiguous::page_tokens(1000) == 1008);
  CHECK(std::is_same_v<kv::paged<16, kv::q8>::element_type, kv::q8>);
}

TEST_CASE("a storage refuses what is not there") {
  using storage = tenon::infer::kv_storage<float>;
  auto const make = [&](index_t page_tokens, std::vector<index_t> pages) { storage(layers, page_tokens, pages); };
  CHECK_THROWS_AS(make(16, {1}), tenon::argument_error);
  CHECK_THROWS_AS(make(8, {1, 1}), tenon::argument_error);
  CHECK_THROWS_AS(make(16, {1, -1}), tenon::argument_error);
  storage cache(layers, 16, std::vector<index_t>{2, 1});
  CHECK_THROWS_AS(cache.copy_page(1, 0, 1), tenon::argument_error);
  CHECK_THROWS_AS(cache.copy_page(2, 0, 0), tenon::argument_error);
  CHECK_THROWS_AS(cache.swap_out(0, std::vector<std::int32_t>{2}), tenon::argument_error);
  CHECK_THROWS_AS(cache.layer(4), tenon::argument_error);
  CHECK_THROWS_AS(cache.group(-1), tenon::argument_error);
}

TEST_CASE("sequences that fork share pages until they write, and a rolled back one leaves no trace") {
  std::vector<kv_layer> const one{{1, 16, 0}};
  tenon::infer::kv_storage<float> cache(one, 16, std::vector<index_t>{4});
  tenon::exec::host_context ctx(1);
  auto const x = ref::random_values(80 * 16, 1);
  auto const rows = [&](index_t first, index_t n) { return tenon::matrix(x.data() + first * 16, n, 16); };
  auto const write = [&](index_t first, index_t n, index_t position, std::vector<std::int32_t> const& pages) {
    ops::paged_sequence const s{0, n, position, pages};
    ops::kv_write(ctx, ops::kv_write_args<float, float>{rows(first, n), rows(first, n), cache.layer(0), {&s, 1}});
  };
  auto const attend = [&](index_t position, std::vector<std::int32_t> const& pages) {
    std::vector<float> out(16);
    ops::paged_sequence const s{0, 1, position, pages};
    ops::paged_attention(ctx, ops::paged_attention_args<float, float>{rows(70, 1),
                                                                      tenon::matrix(out.data(), 1, 16),
                                                                      cache.layer(0),
                                                                      {&s, 1},
                                                                      {1, 1, 16}});
    return out;
  };
  write(0, 20, 0, {0, 1});
  auto const at_20 = attend(19, {0, 1});
  cache.copy_page(0, 1, 2);
  write(40, 5, 20, {0, 2});  // the fork goes its own way
  write(20, 5, 20, {0, 1});
  auto const original = attend(24, {0, 1}), fork = attend(24, {0, 2});
  CHECK(!ref::same_bits(original, fork));
  CHECK(ref::same_bits(attend(19, {0, 1}), at_20));
  CHECK(ref::same_bits(attend(19, {0, 2}), at_20));
  write(40, 5, 20, {0, 1});  // speculation went wrong: other tokens take the places
  CHECK(ref::same_bits(attend(24, {0, 1}), fork));
}
