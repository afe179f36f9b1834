// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Attention of a batch of sequences over their cached keys and values, which lie in pages.
///
/// Order of arithmetic: that of ops/attention.hpp over the whole sequence, whatever the pages, the batch and the cuts of
/// a sequence into calls. A cache of narrower elements gives what attention gives of keys and values rounded to them.
///
/// Layout. A page holds, for each KV head, its tokens in tiles of 16, one after the other. In a tile the keys lie as
/// [head_width][16 tokens] and the values, 64 features at a time, as [16 tokens][64]: vectors run over keys where scores
/// are taken and over features where outputs are, and both are read from front to back. head_width is rounded up to 16.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <tenon/core/reduction_order.hpp>
#include <tenon/ops/attention.hpp>
#include <tenon/policy/kv.hpp>

namespace tenon::ops {

/// Where the values of a tile lie.
struct kv_values {
  static constexpr index_t chunk = 64;
  index_t padded;
  /// Features in the chunk that begins with feature `first`.
  index_t width(index_t first) const { return std::min(chunk, padded - first); }
  index_t at(index_t token, index_t feature) const {
    index_t const first = feature / chunk * chunk;
    return first * lanes + token * width(first) + feature - first;
  }
};

/// Sixteen tokens of one KV head. `padded` is head_width rounded up to 16.
template <kv::CacheElement E>
struct kv_tile {
  E *k, *v;
  kv_tile() = default;
  kv_tile(std::byte* at, index_t padded) : k(reinterpret_cast<E*>(at)), v(k + lanes * padded) {}
  static constexpr index_t bytes(index_t padded) { return 2 * lanes * padded * index_t(sizeof(E)); }
};
/// An int8 times its scale is the element, rounded to fp32: scale = largest magnitude / 127, both of one token.
template <>
struct kv_tile<kv::q8> {
  float *k_scale, *v_scale;  ///< [16]
  std::int8_t *k, *v;
  kv_tile() = default;
  kv_tile(std::byte* at, index_t padded)
      : k_scale(reinterpret_cast<float*>(at)), v_scale(k_scale + lanes),
        k(reinterpret_cast<std::int8_t*>(v_scale + lanes)), v(k + lanes * padded) {}
  static constexpr index_t bytes(index_t padded) { return 2 * lanes * (padded + index_t(sizeof(float))); }
};

/// The pages of one layer, seen.
template <kv::CacheElement E>
struct kv_pages {
  std::byte* data = nullptr;  ///< of the first page, aligned to a cache line
  index_t pages = 0;
  index_t page_tokens = lanes;  ///< a multiple of 16
  int kv_heads = 1, head_width = 1;
  index_t gap = 0;  ///< bytes between a page and the next: those of other layers

  index_t padded() const { return round_up(head_width, lanes); }
  index_t tile_bytes() const { return kv_tile<E>::bytes(padded()); }
  index_t page_bytes() const { return kv_heads * (page_tokens / lanes) * tile_bytes(); }
  /// Tile `i` of the tokens of a page.
  kv_tile<E> tile(index_t page, int head, index_t i) const {
    return {data + page * (page_bytes() + gap) + (head * (page_tokens / lanes) + i) * tile_bytes(), padded()};
  }
};

/// The new tokens of one sequence: rows [row, row + tokens) have the positions from `position` on.
struct paged_sequence {
  index_t row = 0, tokens = 0, position = 0;
  /// Which page holds the tokens [i * page_tokens, (i + 1) * page_tokens). Pages that no new token sees (those that a
  /// window has left behind) are not looked at and may be -1.
  std::span<std::int32_t const> pages;
};

/// @shape q, out [rows, query_heads * head_width]; any row stride, column stride 1  sinks [query_heads]
template <class T, class E>
struct paged_attention_args {
  matrix_view<T const> q;
  matrix_view<T> out;
  kv_pages<E> cache;
  std::span<paged_sequence const> sequences;
  attention_options options;
  float const* sinks = nullptr;  ///< as in attention_forward_args
};

/// @shape k, v [rows, kv_heads * head_width]; any row stride, column stride 1
template <class T, class E>
struct kv_write_args {
  matrix_view<T const> k, v;
  kv_pages<E> cache;
  std::span<paged_sequence const> sequences;
};

namespace detail {

template <class E>
void check_paged(kv_pages<E> const& cache, std::span<paged_sequence const> sequences, index_t rows) {
  require_attention(cache.page_tokens > 0 && cache.page_tokens % lanes == 0 && cache.kv_heads > 0 &&
                        cache.head_width > 0 && cache.pages >= 0,
                    "the cache has no heads or pages that are not a multiple of 16 tokens. Fix: kv::paged<16>.");
  for (auto const& s : sequences) {
    require_attention(s.row >= 0 && s.tokens >= 0 && s.row + s.tokens <= rows && s.position >= 0,
                      "a sequence has rows outside of the matrices. Fix: row + tokens at most their rows.");
    require_attention(s.position + s.tokens <= index_t(s.pages.size()) * cache.page_tokens,
                      "a sequence has more tokens than its pages hold. Fix: a page for every page_tokens tokens.");
  }
}
template <class T, class E>
void check_paged_attention(paged_attention_args<T, E> const& a) {
  auto const& o = a.options;
  check_attention_options(o);
  check_attention_matrix(a.q, a.q.extent(0), o.query_heads * o.head_width);
  check_attention_matrix(a.out, a.q.extent(0), o.query_heads * o.head_width);
  require_attention(o.kv_heads == a.cache.kv_heads && o.head_width == a.cache.head_width,
                    "the cache was made for other heads. Fix: kv_heads and head_width of the options.");
  check_paged(a.cache, a.sequences, a.q.extent(0));
}
template <class T, class E>
void check_kv_write(kv_write_args<T, E> const& a) {
  index_t const columns = index_t(a.cache.kv_heads) * a.cache.head_width;
  check_attention_matrix(a.k, a.k.extent(0), columns);
  check_attention_matrix(a.v, a.k.extent(0), columns);
  check_paged(a.cache, a.sequences, a.k.extent(0));
}

/// Tile `i` of a sequence.
template <class E>
kv_tile<E> tile_of(kv_pages<E> const& cache, paged_sequence const& s, int head, index_t i) {
  index_t const in_page = cache.page_tokens / lanes, page = s.pages[std::size_t(i / in_page)];
  require_attention(page >= 0 && page < cache.pages,
                    "a page that is needed is not in the cache. Fix: keep pages until no new token sees them.");
  return cache.tile(page, head, i % in_page);
}

}  // namespace detail

/// Softmax attention of new tokens over all of their sequence up to them, whose keys and values, their own included,
/// are in the cache.
/// @error argument_error when shapes, options or pages do not fit   @source Kwon et al. 2023, arXiv:2309.06180
/// @test tests/ops/paged_attention_test.cpp
inline constexpr struct paged_attention_t : operation<paged_attention_t> {
  static constexpr char const* name = "paged_attention";
  template <class T, class E>
  static profile::work work(paged_attention_args<T, E> const& a) {
    auto const& o = a.options;
    double pairs = 0, tokens = 0, rows = 0;
    for (auto const& s : a.sequences) {
      index_t const length = s.position + s.tokens;
      pairs += detail::attention_pairs(o, {length, s.position, length, 0, length});
      detail::attention_visibility const visible{o.causal, o.window, length};
      tokens += double(length - visible.keys_begin(s.position));
      rows += double(s.tokens);
    }
    return {4.0 * o.head_width * o.query_heads * pairs,
            tokens * double(a.cache.page_bytes()) / double(a.cache.page_tokens) +
                2 * rows * o.query_heads * o.head_width * sizeof(T)};
  }
} paged_attention{};

/// Puts the keys and values of new tokens into their pages, rounded to the cache's element type.
/// @error argument_error when shapes or pages do not fit   @test tests/ops/paged_attention_test.cpp
inline constexpr struct kv_write_t : operation<kv_write_t> {
  static constexpr char const* name = "kv_write";
  template <class T, class E>
  static profile::work work(kv_write_args<T, E> const& a) {
    double rows = 0;
    for (auto const& s : a.sequences) rows += double(s.tokens);
    return {
        0, rows * (double(a.cache.page_bytes()) / double(a.cache.page_tokens) + 2 * double(a.k.extent(1)) * sizeof(T))};
  }
} kv_write{};

}  // namespace tenon::ops
