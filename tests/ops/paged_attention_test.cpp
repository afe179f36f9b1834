// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include <ref/values.hpp>
#include <tenon/ops/host/attention.hpp>
#include <tenon/ops/host/paged_attention.hpp>

namespace {

using tenon::index_t;
namespace ops = tenon::ops;
namespace kv = tenon::kv;

/// Whole sequences of queries, keys and values, one after the other.
template <class T>
struct problem {
  ops::attention_options options;
  std::vector<index_t> lengths, begins{0};
  std::vector<T> q, k, v;
  std::vector<float> sinks;
  index_t wide, narrow;

  problem(ops::attention_options o, std::vector<index_t> given, bool with_sinks = false)
      : options(o), lengths(given), wide(index_t(o.query_heads) * o.head_width),
        narrow(index_t(o.kv_heads) * o.head_width) {
    for (auto l : lengths) begins.push_back(begins.back() + l);
    q = ref::random_values<T>(tokens() * wide, 1, 2), k = ref::random_values<T>(tokens() * narrow, 2, 2);
    v = ref::random_values<T>(tokens() * narrow, 3, 2);
    if (with_sinks) sinks = ref::random_values(o.query_heads, 4, 3);
  }
  index_t tokens() const { return begins.back(); }
  float const* sinks_or_null() const { return sinks.empty() ? nullptr : sinks.data(); }

  std::vector<T> attention(std::vector<T> const& keys, std::vector<T> const& values) const {
    tenon::exec::host_context ctx(1);
    auto out = ref::poison<T>(tokens() * wide);
    std::vector<float> log_sum_exp(std::size_t(tokens() * options.query_heads));
    ops::attention_forward(
        ctx, ops::attention_forward_args<T>{
                 tenon::matrix(q.data(), tokens(), wide), tenon::matrix(keys.data(), tokens(), narrow),
                 tenon::matrix(values.data(), tokens(), narrow), tenon::matrix(out.data(), tokens(), wide),
                 tenon::matrix(log_sum_exp.data(), options.query_heads, tokens()), begins, options, sinks_or_null()});
    return out;
  }
  std::vector<T> attention() const { return attention(k, v); }
};

/// Pages in an order that no sequence's tokens have, every byte of them poisoned.
template <class E>
struct cache {
  std::vector<std::byte> memory;
  ops::kv_pages<E> pages;
  std::vector<std::vector<std::int32_t>> tables;

  template <class T>
  cache(problem<T> const& p, index_t page_tokens) {
    pages = {nullptr, 0, page_tokens, p.options.kv_heads, p.options.head_width};
    for (auto length : p.lengths) {
      tables.emplace_back(std::size_t(tenon::ceil_div(length, page_tokens)));
      for (auto& page : tables.back()) page = std::int32_t(7 * pages.pages++);
    }
    while (pages.pages % 7 == 0) ++pages.pages;
    for (auto& table : tables)
      for (auto& page : table) page = std::int32_t(page % pages.pages);
    memory.assign(std::size_t(pages.pages * pages.page_bytes() + 64), std::byte(0xff));
    pages.data = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
  }
};

/// The attention of all tokens in steps: in each, sequence i gets up to chunk(i, its position) tokens. The matrices of
/// a step hold the sequences in falling order, and rows of others between them.
template <class E, class T, class Chunk>
std::vector<T> in_steps(problem<T> const& p, index_t page_tokens, int threads, Chunk&& chunk) {
  tenon::exec::host_context ctx(threads);
  cache<E> c(p, page_tokens);
  auto out = ref::poison<T>(p.tokens() * p.wide);
  std::vector<index_t> done(p.lengths.size(), 0);
  for (;;) {
    std::vector<ops::paged_sequence> step;
    index_t rows = 1;
    for (std::size_t i = p.lengths.size(); i-- > 0;) {
      index_t const now = std::min(chunk(i, done[i]), p.lengths[i] - done[i]);
      if (now <= 0) continue;
      if (p.options.window)
        for (index_t page = 0; (page + 1) * page_tokens <= done[i] - p.options.window + 1; ++page)
          c.tables[i][std::size_t(page)] = -1;
      step.push_back({rows, now, done[i], c.tables[i]});
      rows += now + 1;
    }
    if (step.empty()) return out;
    index_t const stride = p.wide + 2 * p.narrow + 5;
    auto qkv = ref::poison<T>(rows * stride), part = ref::poison<T>(rows * (p.wide + 3));
    auto const columns = [&](index_t first, index_t count) {
      return tenon::columns_of(tenon::matrix<T const>(qkv.data(), rows, stride), first, count);
    };
    auto const position_of = [&](ops::paged_sequence const& s) {  // the row of its first token in p
      for (std::size_t i = 0;; ++i)
        if (s.pages.data() == c.tables[i].data()) return p.begins[i] + s.position;
    };
    for (auto const& s : step)
      for (index_t t = 0; t < s.tokens; ++t) {
        index_t const from = position_of(s) + t;
        T* const row = qkv.data() + (s.row + t) * stride;
        std::copy_n(p.q.data() + from * p.wide, p.wide, row);
        std::copy_n(p.k.data() + from * p.narrow, p.narrow, row + p.wide);
        std::copy_n(p.v.data() + from * p.narrow, p.narrow, row + p.wide + p.narrow);
      }
    auto const to = tenon::columns_of(tenon::matrix(part.data(), rows, p.wide + 3), 0, p.wide);
    ops::kv_write(
        ctx, ops::kv_write_args<T, E>{columns(p.wide, p.narrow), columns(p.wide + p.narrow, p.narrow), c.pages, step});
    ops::paged_attention(
        ctx, ops::paged_attention_args<T, E>{columns(0, p.wide), to, c.pages, step, p.options, p.sinks_or_null()});
    for (auto const& s : step) {
      for (index_t t = 0; t < s.tokens; ++t)
        std::copy_n(&to(s.row + t, 0), p.wide, out.data() + (position_of(s) + t) * p.wide);
      for (std::size_t i = 0; i < c.tables.size(); ++i)
        if (s.pages.data() == c.tables[i].data()) done[i] += s.tokens;
    }
    for (index_t r = 0, next = 0; r < rows; r = next) {  // rows of others stay as they were
      next = r + 1;
      bool const others =
          std::none_of(step.begin(), step.end(), [&](auto const& s) { return r >= s.row && r < s.row + s.tokens; });
      if (others) CHECK(std::isnan(float(to(r, 0))));
    }
  }
}

auto const whole = [](std::size_t, index_t) { return index_t(1) << 40; };
auto const mixed = [](std::size_t i, index_t done) { return index_t(1 + (done * 13 + index_t(i) * 29) % 37); };
auto fixed(index_t n) {
  return [n](std::size_t, index_t) { return n; };
}

ops::attention_options heads(int query, int key, int width, index_t window = 0, float soft_cap = 0) {
  return {query, key, width, 0.35f, true, window, soft_cap};
}

template <class E, class T>
void check_all_ways(problem<T> const& p, std::vector<T> const& expected) {
  CAPTURE(p.options.query_heads);
  CAPTURE(p.options.kv_heads);
  CAPTURE(p.options.head_width);
  CAPTURE(p.options.window);
  CAPTURE(p.options.soft_cap);
  for (index_t page : {16, 32, 64, 208})
    for (int threads : {1, 2}) {
      CHECK(ref::same_bits(in_steps<E>(p, page, threads, whole), expected));
      CHECK(ref::same_bits(in_steps<E>(p, page, threads, mixed), expected));
    }
  CHECK(ref::same_bits(in_steps<E>(p, 16, 2, fixed(64)), expected));
}

/// What a cache of E makes of rows [rows, heads * width].
template <class E, class T>
std::vector<T> rounded(std::vector<T> x, index_t width) {
  if constexpr (!std::is_same_v<E, kv::q8>)
    for (auto& e : x) e = T(float(E(float(e))));
  else
    for (auto row = x.begin(); row != x.end(); row += width) {
      float largest = 0;
      for (index_t i = 0; i < width; ++i) largest = std::max(largest, std::abs(float(row[i])));
      float const scale = largest / 127.0f;
      for (index_t i = 0; i < width; ++i)
        row[i] = T(scale > 0 ? float(int(std::nearbyint(float(row[i]) / scale))) * scale : 0.0f);
    }
  return x;
}

}  // namespace

TEST_CASE("paged attention has the bits of attention over the whole sequence") {
  for (auto const& o :
       {heads(2, 2, 64), heads(4, 2, 80), heads(4, 1, 128), heads(4, 1, 256), heads(7, 1, 5), heads(6, 2, 24)}) {
    problem<float> const p(o, {200});
    check_all_ways<float>(p, p.attention());
  }
}

TEST_CASE("every cut of a sequence gives the same bits") {
  problem<float> const p(heads(4, 2, 64), {200});
  auto const expected = p.attention();
  for (index_t chunk : {1, 2, 3, 7, 16, 63, 65, 100, 199})
    CHECK(ref::same_bits(in_steps<float>(p, 32, 1, fixed(chunk)), expected));
}

TEST_CASE("batches of sequences of every length, with windows, soft caps and sinks") {
  std::vector<index_t> const lengths{1, 70, 16, 200, 5, 64, 129};
  for (auto const& o : {heads(4, 2, 16), heads(4, 1, 32, 1), heads(4, 2, 16, 20), heads(2, 2, 16, 64, 1.5f),
                        heads(8, 2, 16, 100), heads(3, 1, 64, 0, 2.5f)})
    for (bool sinks : {false, true}) {
      problem<float> const p(o, lengths, sinks);
      check_all_ways<float>(p, p.attention());
    }
}

TEST_CASE("threads that share one head of a long sequence give the same bits") {
  for (auto const& o : {heads(4, 1, 80), heads(3, 1, 64, 520, 1.5f), heads(8, 1, 256)})
    for (bool sinks : {false, true}) {
      problem<float> const p(o, {700}, sinks);
      auto const expected = p.attention();
      for (int threads : {2, 3, 7}) {
        CHECK(ref::same_bits(in_steps<float>(p, 16, threads, mixed), expected));
        CHECK(ref::same_bits(in_steps<float>(p, 64, threads, fixed(5)), expected));
      }
    }
  problem<float> const two(heads(4, 2, 64), {600, 20});
  CHECK(ref::same_bits(in_steps<float>(two, 16, 5, fixed(1)), two.attention()));
  problem<float> const narrow(heads(4, 1, 64), {600});
  auto const rounded_to = [&]<class E>(E) {
    CHECK(ref::same_bits(in_steps<E>(narrow, 16, 2, fixed(3)),
                         narrow.attention(rounded<E>(narrow.k, 64), rounded<E>(narrow.v, 64))));
  };
  rounded_to(tenon::bf16{}), rounded_to(kv::q8{});
}

TEST_CASE("narrow caches give what attention gives of rounded keys and values") {
  for (auto const& o : {heads(4, 2, 64), heads(4, 1, 80, 50, 1.5f), heads(3, 3, 20)}) {
    problem<float> const p(o, {200, 17});
    auto const check = [&]<class E>(E) {
      index_t const width = o.head_width;
      check_all_ways<E>(p, p.attention(rounded<E>(p.k, width), rounded<E>(p.v, width)));
    };
    check(tenon::bf16{}), check(tenon::fp16{}), check(kv::q8{});
  }
}

TEST_CASE("bf16 activations with a bf16 cache are what training computes") {
  problem<tenon::bf16> const p(heads(4, 2, 64), {150, 20});
  check_all_ways<tenon::bf16>(p, p.attention());
}

TEST_CASE("zeros, and rows that int8 cannot hold") {
  problem<float> p(heads(1, 1, 16), {3});
  std::fill_n(p.k.begin(), 16, 0.0f), std::fill_n(p.v.begin() + 16, 16, 0.0f);
  CHECK(ref::same_bits(in_steps<kv::q8>(p, 16, 1, whole),
                       p.attention(rounded<kv::q8>(p.k, 16), rounded<kv::q8>(p.v, 16))));
  for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    p.v[40] = bad;
    auto const out = in_steps<kv::q8>(p, 16, 1, fixed(1));
    CHECK(!std::isnan(out[16]));
    CHECK(std::isnan(out[32]));  // the row is not silently a finite one
  }
}

TEST_CASE("paged attention refuses what does not fit") {
  tenon::exec::host_context ctx(2);
  problem<float> const p(heads(2, 1, 16), {40});
  cache<float> c(p, 16);
  std::vector<float> out(p.q.size());
  auto const attend = [&](ops::paged_sequence s, ops::attention_options o) {
    ops::paged_attention(ctx, ops::paged_attention_args<float, float>{tenon::matrix(p.q.data(), 40, p.wide),
                                                                      tenon::matrix(out.data(), 40, p.wide), c.pages,
                                                                      std::span(&s, 1), o});
  };
  auto const write = [&](ops::paged_sequence s) {
    ops::kv_write(ctx,
                  ops::kv_write_args<float, float>{tenon::matrix(p.k.data(), 40, p.narrow),
                                                   tenon::matrix(p.v.data(), 40, p.narrow), c.pages, std::span(&s, 1)});
  };
  std::span<std::int32_t const> const table = c.tables[0];
  CHECK_NOTHROW(write({0, 40, 0, table}));
  CHECK_NOTHROW(attend({0, 40, 0, table}, p.options));
  CHECK_THROWS_AS(attend({0, 41, 0, table}, p.options), tenon::argument_error);       // rows
  CHECK_THROWS_AS(attend({0, 40, 9, table}, p.options), tenon::argument_error);       // tokens beyond the table
  CHECK_THROWS_AS(attend({0, 1, 20, table}, heads(2, 2, 8)), tenon::argument_error);  // other heads
  CHECK_THROWS_AS(write({0, 41, 0, table}), tenon::argument_error);
  std::int32_t const freed[] = {-1, table[1], table[2]}, beyond[] = {table[0], std::int32_t(c.pages.pages), 0};
  CHECK_THROWS_AS(attend({0, 1, 39, freed}, p.options), tenon::argument_error);
  CHECK_THROWS_AS(attend({0, 1, 39, beyond}, p.options), tenon::argument_error);
  CHECK_THROWS_AS(write({0, 1, 3, freed}), tenon::argument_error);
  CHECK_NOTHROW(attend({0, 1, 39, freed}, heads(2, 1, 16, 24)));
}
