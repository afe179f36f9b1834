// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The memory of a model's cached keys and values, by page number. Who owns which page is not known here.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <tenon/core/arena.hpp>
#include <tenon/core/error.hpp>
#include <tenon/ops/paged_attention.hpp>

namespace tenon::infer {

/// What one layer caches.
struct kv_layer {
  int kv_heads = 1, head_width = 1;
  index_t window = 0;  ///< 0: every token stays visible
};

/// What a cache is to hold at most.
struct kv_demand {
  index_t sequences = 1;
  index_t longest = 0;  ///< tokens of one sequence
  index_t tokens = 0;   ///< of all sequences together
  index_t step = 1;     ///< new tokens of one sequence in one call
};

/// The pages of all layers of a model, taken from the system once. Layers with the same window form a group: one page
/// number is one page in each of them, so that a sequence has one list of pages per group. Groups are numbered in the
/// order of their first layers. Pages of the same number lie together, so that a short sequence touches little memory.
///
///     using storage = kv_storage<bf16>;
///     storage cache(layers, 16, storage::pages_for(layers, 16, {.sequences = 8, .longest = 4096, .tokens = 8192}));
///     ops::kv_write(context, ops::kv_write_args<float, bf16>{k, v, cache.layer(0), sequences});
///
/// @error argument_error for a page, group or layer that is not there; error(out_of_memory)
/// @test tests/infer/kv_storage_test.cpp
template <kv::CacheElement Element>
class kv_storage {
 public:
  using element_type = Element;

  /// @param page_tokens a multiple of 16   @param group_pages how many pages each group has
  kv_storage(std::span<kv_layer const> layers, index_t page_tokens, std::span<index_t const> group_pages)
      : windows(windows_of(layers)), memory(bytes_for(layers, page_tokens, group_pages)) {
    for (auto const& l : layers) {
      groups_of_layers.push_back(group_of(windows, l));
      views.push_back(pages_of(l, page_tokens));
    }
    std::byte* next = memory.data();
    for (int g = 0; g < groups(); ++g) {
      std::byte* const first = next;
      for_layers(g, [&](auto& v) { v.data = std::exchange(next, next + v.page_bytes()); });
      pages.push_back({first, group_pages[std::size_t(g)], next - first});
      next = first + pages.back().count * pages.back().bytes;
      for_layers(g, [&](auto& v) { v.pages = pages.back().count, v.gap = pages.back().bytes - v.page_bytes(); });
    }
  }

  /// How many pages of each group the demand needs at most. A layer with a window needs the pages that a step sees.
  static std::vector<index_t> pages_for(std::span<kv_layer const> layers, index_t page_tokens, kv_demand const& d) {
    index_t const all = std::min(d.sequences * ceil_div(d.longest, page_tokens),
                                 (d.tokens + d.sequences * (page_tokens - 1)) / page_tokens);
    std::vector<index_t> pages;
    for (index_t const window : windows_of(layers)) {
      index_t const seen = window + d.step - 1, touched = ceil_div(seen - 1, page_tokens) + 1;
      pages.push_back(window ? std::min(all, d.sequences * touched) : all);
    }
    return pages;
  }
  static std::size_t bytes_for(std::span<kv_layer const> layers, index_t page_tokens,
                               std::span<index_t const> group_pages) {
    auto const windows = windows_of(layers);
    if (group_pages.size() != windows.size())
      refuse("the layers have " + std::to_string(windows.size()) + " different windows, and " +
             std::to_string(group_pages.size()) + " numbers of pages are given. Fix: one for each.");
    if (page_tokens <= 0 || page_tokens % lanes != 0)
      refuse("a page of " + std::to_string(page_tokens) + " tokens is not a multiple of 16. Fix: kv::paged<16>.");
    std::size_t sum = 0;
    for (auto const& l : layers) {
      index_t const pages = group_pages[std::size_t(group_of(windows, l))];
      if (l.kv_heads <= 0 || l.head_width <= 0 || l.window < 0 || pages < 0)
        refuse("a layer has no heads, or a window or a number of pages is negative. Fix: the model's numbers.");
      sum += std::size_t(pages) * std::size_t(pages_of(l, page_tokens).page_bytes());
    }
    return sum;
  }
  /// The most tokens, up to those of d, that fit `bytes`; pages_for with them gives the pages. 0 when nothing fits.
  static index_t tokens_within(std::size_t bytes, std::span<kv_layer const> layers, index_t page_tokens, kv_demand d) {
    index_t fits = 0, too_many = std::min(d.tokens, d.sequences * d.longest) + 1;
    while (too_many - fits > 1) {
      d.tokens = fits + (too_many - fits) / 2;
      (bytes_for(layers, page_tokens, pages_for(layers, page_tokens, d)) <= bytes ? fits : too_many) = d.tokens;
    }
    return fits;
  }

  int layers() const { return int(views.size()); }
  int groups() const { return int(windows.size()); }
  index_t window(int group) const { return at(windows, group); }
  int group(int layer) const { return at(groups_of_layers, layer); }
  std::size_t bytes() const { return memory.size(); }
  /// The pages of a layer as operations take them.
  ops::kv_pages<Element> const& layer(int l) const { return at(views, l); }
  /// Bytes of a page in all layers of a group.
  std::size_t page_bytes(int group) const { return std::size_t(at(pages, group).bytes); }

  /// Makes page `to` equal to page `from`: before a sequence writes into a page that others read too.
  void copy_page(int group, index_t from, index_t to) {
    std::memcpy(page(group, to), page(group, from), page_bytes(group));
  }
  /// What the pages hold, to be kept elsewhere; a -1 among them is passed over.
  std::vector<std::byte> swap_out(int group, std::span<std::int32_t const> numbers) const {
    std::vector<std::byte> kept;
    for (auto const number : numbers)
      if (number != -1) kept.insert(kept.end(), page(group, number), page(group, number) + page_bytes(group));
    return kept;
  }
  /// Brings back what swap_out kept, into pages that may be others; -1 must be where they were.
  void swap_in(int group, std::span<std::int32_t const> numbers, std::span<std::byte const> kept) {
    auto const present = std::size_t(std::count_if(numbers.begin(), numbers.end(), [](auto p) { return p >= 0; }));
    if (kept.size() != present * page_bytes(group))
      refuse(std::to_string(kept.size()) + " bytes are not those of " + std::to_string(present) +
             " pages. Fix: the pages of the same sequence and group.");
    for (auto const number : numbers) {
      if (number == -1) continue;
      std::memcpy(page(group, number), kept.data(), page_bytes(group));
      kept = kept.subspan(page_bytes(group));
    }
  }

 private:
  [[noreturn]] static void refuse(std::string const& what) { throw argument_error("tenon::kv_storage: " + what); }
  template <class V>
  static auto& at(V& v, int i) {
    if (i < 0 || std::size_t(i) >= v.size())
      refuse("there is no layer or group " + std::to_string(i) + " among " + std::to_string(v.size()) +
             ". Fix: count from 0.");
    return v[std::size_t(i)];
  }
  static std::vector<index_t> windows_of(std::span<kv_layer const> layers) {
    std::vector<index_t> windows;
    for (auto const& l : layers)
      if (std::find(windows.begin(), windows.end(), l.window) == windows.end()) windows.push_back(l.window);
    return windows;
  }
  static int group_of(std::vector<index_t> const& windows, kv_layer const& l) {
    return int(std::find(windows.begin(), windows.end(), l.window) - windows.begin());
  }
  static ops::kv_pages<Element> pages_of(kv_layer const& l, index_t page_tokens) {
    return {nullptr, 0, page_tokens, l.kv_heads, l.head_width};
  }
  std::byte* page(int group, index_t number) const {
    auto const& all = at(pages, group);
    if (number < 0 || number >= all.count)
      refuse("there is no page " + std::to_string(number) + " among " + std::to_string(all.count) +
             ". Fix: a page of this group.");
    return all.data + number * all.bytes;
  }
  template <class F>
  void for_layers(int group, F&& f) {
    for (std::size_t l = 0; l < views.size(); ++l)
      if (groups_of_layers[l] == group) f(views[l]);
  }

  struct pages_of_group {
    std::byte* data;
    index_t count, bytes;  ///< bytes of a page
  };

  std::vector<index_t> windows;
  memory_block memory;
  std::vector<int> groups_of_layers;
  std::vector<ops::kv_pages<Element>> views;
  std::vector<pages_of_group> pages;
};

}  // namespace tenon::infer
