// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The head of a GGUF file, checked: its metadata and its list of tensors. Nothing is copied out of the file, so
/// that a vocabulary of any size costs one walk over it.
/// @source docs/gguf.md of ggml, versions 2 and 3, which are the same but for the order of bytes
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/weight_format.hpp>
#include <tenon/io/weight_source.hpp>

namespace tenon::io {

static_assert(std::endian::native == std::endian::little,
              "tenon::io: GGUF files are little-endian and are mapped as they are. Fix: use a little-endian machine.");

/// The types of values in the metadata, numbered as in files.
enum class gguf_kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };

/// Numbers that lie in a file at any address, so they are read one by one.
template <class T>
class packed_values {
 public:
  packed_values(std::byte const* data, std::size_t count) : begin(data), length(count) {}
  std::size_t size() const { return length; }
  T operator[](std::size_t i) const {
    T value;
    std::memcpy(&value, begin + i * sizeof(T), sizeof(T));
    return value;
  }
  std::vector<T> to_vector() const {
    std::vector<T> all(length);
    if (length) std::memcpy(all.data(), begin, length * sizeof(T));
    return all;
  }

 private:
  std::byte const* begin;
  std::size_t length;
};

/// The texts of an array, one after the other: `for (std::string_view s : strings)`.
class gguf_strings {
 public:
  gguf_strings(std::span<std::byte const> payload, std::size_t count) : bytes(payload), length(count) {}
  class iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = std::string_view;
    iterator() = default;
    explicit iterator(std::byte const* p) : at(p) {}
    std::string_view operator*() const { return {reinterpret_cast<char const*>(at) + 8, size()}; }
    iterator& operator++() { return at += 8 + size(), *this; }
    iterator operator++(int) {
      iterator const old = *this;
      ++*this;
      return old;
    }
    bool operator==(iterator const&) const = default;

   private:
    std::size_t size() const { return std::size_t(packed_values<std::uint64_t>(at, 1)[0]); }
    std::byte const* at = nullptr;
  };
  iterator begin() const { return iterator(bytes.data()); }
  iterator end() const { return iterator(bytes.data() + bytes.size()); }
  std::size_t size() const { return length; }

 private:
  std::span<std::byte const> bytes;
  std::size_t length;
};

/// A value of the metadata, in the file.
struct gguf_value {
  gguf_kind kind = gguf_kind::u8;
  gguf_kind element = gguf_kind::u8;   ///< of an array
  std::size_t count = 1;               ///< elements of an array
  std::span<std::byte const> encoded;  ///< all of it, from its type on
  std::span<std::byte const> payload() const { return encoded.subspan(kind == gguf_kind::array ? 16 : 4); }
};

/// A tensor: how it is stored, and where its bytes are.
struct gguf_tensor {
  std::uint32_t type_number = 0;
  weight_layout const* type = nullptr;  ///< null for a number that tenon does not know
  std::vector<index_t> shape;           ///< the longest stride first, as everywhere in tenon: the file's order reversed
  std::span<std::byte const> bytes;     ///< empty when the type is not known
};

namespace detail {

/// Formats of ggml that tenon does not compute with; their sizes are needed to check a file that has them.
inline constexpr std::array<weight_layout, 20> other_gguf_types{
    {{"Q8_1", 9, 32, 36},      {"Q8_K", 15, 256, 292}, {"IQ2_XXS", 16, 256, 66}, {"IQ2_XS", 17, 256, 74},
     {"IQ3_XXS", 18, 256, 98}, {"IQ1_S", 19, 256, 50}, {"IQ3_S", 21, 256, 110},  {"IQ2_S", 22, 256, 82},
     {"IQ4_XS", 23, 256, 136}, {"I8", 24, 1, 1},       {"I16", 25, 1, 2},        {"I32", 26, 1, 4},
     {"I64", 27, 1, 8},        {"F64", 28, 1, 8},      {"IQ1_M", 29, 256, 56},   {"TQ1_0", 34, 256, 54},
     {"TQ2_0", 35, 256, 66},   {"NVFP4", 40, 64, 36},  {"Q1_0", 41, 128, 18},    {"Q2_0", 42, 64, 18}}};

/// The weight format of this number, if it is one.
inline std::optional<weight_format> find_weight_format(std::uint32_t number) {
  for (std::size_t f = 0; f < weight_layouts.size(); ++f)
    if (weight_layouts[f].gguf_type == number) return weight_format(f);
  return {};
}
inline weight_layout const* find_gguf_type(std::uint32_t number) {
  if (auto const format = find_weight_format(number)) return &layout_of(*format);
  for (auto const& other : other_gguf_types)
    if (other.gguf_type == number) return &other;
  return nullptr;
}

inline constexpr std::string_view gguf_alignment_key = "general.alignment";
inline constexpr std::size_t default_gguf_alignment = 32;
inline constexpr std::size_t most_gguf_entries = 65536;  ///< of keys and of tensors: far above any model, and a bound
inline constexpr int deepest_gguf_array = 8;

/// Bytes of a value of fixed width; 0 for text and arrays.
constexpr std::size_t width_of(gguf_kind kind) {
  constexpr std::array<std::size_t, 13> widths{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return widths[std::size_t(kind)];
}

struct gguf_head {
  std::map<std::string_view, gguf_value> metadata;
  std::map<std::string_view, gguf_tensor> tensors;
};

/// Reads the head of a whole file's bytes from its beginning to its end.
class gguf_reader {
 public:
  gguf_reader(std::span<std::byte const> content, std::string const& name) : bytes(content), file(name) {}

  /// @error file_error
  gguf_head read() {
    auto const [tensors, keys] = read_counts();
    gguf_head head;
    for (std::size_t i = 0; i < keys; ++i) {
      doing = "key " + std::to_string(i);
      std::string_view const key = read_text(65535);
      doing = "key '" + shown(key) + "'";
      if (!head.metadata.emplace(key, read_value()).second) wrong(doing + " is there twice");
    }
    std::size_t const alignment = read_alignment(head);
    std::vector<placed> order;
    for (std::size_t i = 0; i < tensors; ++i) {
      doing = "tensor " + std::to_string(i);
      std::string_view const name = read_text(64);
      doing = "tensor '" + shown(name) + "'";
      auto const [entry, is_new] = head.tensors.emplace(name, gguf_tensor{});
      if (!is_new) wrong(doing + " is there twice");
      order.push_back(read_tensor(entry->second, alignment));
      order.back().name = name;
    }
    place(order, (at + alignment - 1) / alignment * alignment);
    return head;
  }
  /// A value at the present place.
  gguf_value read_value() {
    std::size_t const begin = at;
    gguf_value v;
    v.kind = v.element = read_kind();
    if (v.kind != gguf_kind::array) skip_values(v.kind, 1, 0);
    else skip_array(v.element, v.count, 1);
    v.encoded = bytes.subspan(begin, at - begin);
    return v;
  }

 private:
  struct placed {
    std::string_view name;
    gguf_tensor* tensor;
    std::uint64_t offset, bytes;
  };

  [[noreturn]] void wrong(std::string const& what) const {
    throw file_error(file, what + ". Fix: download or save it again.");
  }
  void need(std::uint64_t count) const {
    if (count > bytes.size() - at)
      wrong("is truncated in " + doing + ": " + std::to_string(count) + " bytes are needed at byte " +
            std::to_string(at) + ", the file has " + std::to_string(bytes.size()));
  }
  template <class T>
  T read_number() {
    need(sizeof(T));
    T const value = packed_values<T>(bytes.data() + at, 1)[0];
    at += sizeof(T);
    return value;
  }
  std::string_view read_text(std::uint64_t longest) {
    auto const length = read_number<std::uint64_t>();
    if (length == 0 || length > longest)
      wrong(doing + " has a name of " + std::to_string(length) + " bytes; 1 to " + std::to_string(longest) +
            " are allowed");
    need(length);
    at += std::size_t(length);
    return {reinterpret_cast<char const*>(bytes.data() + at - length), std::size_t(length)};
  }

  /// The number of tensors and that of keys.
  std::pair<std::size_t, std::size_t> read_counts() {
    doing = "its head";
    if (bytes.empty()) throw file_error(file, "is empty. Fix: download or save it again.");
    if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0)
      throw file_error(file, "is not a GGUF file. Fix: give a .gguf file.");
    at = 4;
    auto const version = read_number<std::uint32_t>();
    if (version == 0x02000000 || version == 0x03000000)
      throw file_error(file,
                       "is a big-endian GGUF file, which tenon does not read. Fix: use the little-endian file of "
                       "the same model, or convert it (gguf_convert_endian.py).");
    if (version != 2 && version != 3)
      throw file_error(file, "has the GGUF version " + std::to_string(version) +
                                 ", but 2 and 3 are known. Fix: convert the model anew with current tools.");
    auto const tensors = read_number<std::uint64_t>(), keys = read_number<std::uint64_t>();
    // Nothing is allocated by these counts: entries are taken one by one, as far as the file goes.
    if (tensors > most_gguf_entries || keys > most_gguf_entries)
      wrong("cannot have the " + std::to_string(tensors) + " tensors and " + std::to_string(keys) +
            " keys that its head speaks of: " + std::to_string(most_gguf_entries) + " of each are allowed");
    return {std::size_t(tensors), std::size_t(keys)};
  }

  gguf_kind read_kind() {
    auto const number = read_number<std::uint32_t>();
    if (number > std::uint32_t(gguf_kind::f64))
      wrong(doing + " has the unknown type " + std::to_string(number) + "; 0 to 12 are known");
    return gguf_kind(number);
  }
  void skip_array(gguf_kind& element, std::size_t& count, int depth) {
    if (depth > deepest_gguf_array)
      wrong(doing + " has arrays in arrays more than " + std::to_string(deepest_gguf_array) + " deep");
    element = read_kind();
    auto const n = read_number<std::uint64_t>();
    // Before anything is multiplied: an element has at least this many bytes.
    std::size_t const least = element == gguf_kind::text ? 8 : element == gguf_kind::array ? 12 : width_of(element);
    if (n > (bytes.size() - at) / least)
      wrong(doing + " cannot have " + std::to_string(n) + " elements: the file has " +
            std::to_string(bytes.size() - at) + " more bytes");
    count = std::size_t(n);
    skip_values(element, count, depth);
  }
  void skip_values(gguf_kind kind, std::size_t count, int depth) {
    if (kind == gguf_kind::text) {
      for (std::size_t i = 0; i < count; ++i) {
        auto const length = read_number<std::uint64_t>();
        need(length);
        at += std::size_t(length);
      }
    } else if (kind == gguf_kind::array) {
      gguf_kind element{};
      for (std::size_t i = 0, inner = 0; i < count; ++i) skip_array(element, inner, depth + 1);
    } else {
      need(count * width_of(kind));
      if (kind == gguf_kind::boolean)
        for (auto const b : bytes.subspan(at, count))
          if (b > std::byte{1}) wrong(doing + " has " + std::to_string(int(b)) + " where 0 or 1 stands for no or yes");
      at += count * width_of(kind);
    }
  }

  std::size_t read_alignment(gguf_head const& head) const {
    auto const found = head.metadata.find(gguf_alignment_key);
    if (found == head.metadata.end()) return default_gguf_alignment;
    gguf_value const& v = found->second;
    std::uint32_t const alignment =
        v.kind == gguf_kind::u32 ? packed_values<std::uint32_t>(v.payload().data(), 1)[0] : 0;
    if (alignment < 8 || !std::has_single_bit(alignment))
      wrong("key 'general.alignment' must be a U32 that is a power of two and at least 8, but " +
            (v.kind == gguf_kind::u32 ? "is " + std::to_string(alignment) : "has another type"));
    return alignment;
  }

  placed read_tensor(gguf_tensor& t, std::size_t alignment) {
    constexpr std::uint64_t most = std::uint64_t(std::numeric_limits<index_t>::max());
    auto const dims = read_number<std::uint32_t>();
    if (dims < 1 || dims > 4) wrong(doing + " has " + std::to_string(dims) + " dimensions; 1 to 4 are allowed");
    std::uint64_t values = 1;
    for (std::uint32_t d = 0; d < dims; ++d) {
      auto const size = read_number<std::uint64_t>();
      if (size == 0) wrong(doing + " has a dimension of 0");
      if (size > most || values > most / size) wrong(doing + " has more than 2^63 numbers");
      values *= size;
      t.shape.insert(t.shape.begin(), index_t(size));
    }
    t.type_number = read_number<std::uint32_t>();
    t.type = find_gguf_type(t.type_number);
    auto const offset = read_number<std::uint64_t>();
    if (offset % alignment)
      wrong(doing + " begins at " + std::to_string(offset) + ", which is no multiple of the file's alignment " +
            std::to_string(alignment));
    if (!t.type) return {{}, &t, offset, 0};
    if (t.shape.back() % t.type->values)
      wrong(doing + " has rows of " + std::to_string(t.shape.back()) + " numbers, no multiple of the " +
            std::to_string(t.type->values) + " in a block of " + t.type->name);
    std::uint64_t const blocks = values / std::uint64_t(t.type->values);
    if (blocks > most / std::uint64_t(t.type->bytes)) wrong(doing + " has more than 2^63 bytes");
    return {{}, &t, offset, blocks * std::uint64_t(t.type->bytes)};
  }

  /// Gives each tensor its bytes; no two may share any.
  void place(std::vector<placed>& order, std::size_t data_begin) const {
    std::sort(order.begin(), order.end(), [](placed const& a, placed const& b) {
      return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
    });
    std::uint64_t const room = bytes.size() > data_begin ? bytes.size() - data_begin : 0;
    std::uint64_t end = 0;
    for (auto const& p : order) {
      if (p.offset > room || p.bytes > room - p.offset)
        wrong("is truncated: tensor '" + shown(p.name) + "' has " + std::to_string(p.bytes) + " bytes at " +
              std::to_string(p.offset) + ", and there are " + std::to_string(room) + " bytes of tensors");
      if (p.offset < end)
        wrong("tensor '" + shown(p.name) + "' begins at " + std::to_string(p.offset) + ", but the one before ends at " +
              std::to_string(end));
      end = p.offset + p.bytes;
      if (p.bytes) p.tensor->bytes = bytes.subspan(data_begin + std::size_t(p.offset), std::size_t(p.bytes));
    }
  }

  std::span<std::byte const> bytes;
  std::string const& file;
  std::string doing;  ///< what is being read
  std::size_t at = 0;
};

}  // namespace detail
}  // namespace tenon::io
