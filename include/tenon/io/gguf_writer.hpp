// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Writing GGUF version 3.
/// @source docs/gguf.md of ggml   @test tests/io/gguf_writer_test.cpp
#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <tenon/core/view.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/gguf.hpp>
#include <tenon/io/safetensors.hpp>

namespace tenon::io {

/// The metadata of a file to be written: bools, numbers, text, ranges of those, and values of an open file.
class gguf_metadata {
 public:
  template <class T>
  void set(std::string_view key, T const& value) {
    std::string& out = by_key[std::string(key)];
    out.clear();
    if constexpr (std::same_as<T, gguf_value>) {
      out.assign(reinterpret_cast<char const*>(value.encoded.data()), value.encoded.size());
    } else if constexpr (std::is_convertible_v<T const&, std::string_view> || std::is_arithmetic_v<T>) {
      append(out, std::uint32_t(kind_of<T>()));
      append(out, value);
    } else {
      using element = std::decay_t<decltype(*std::begin(value))>;
      append(out, std::uint32_t(gguf_kind::array));
      append(out, std::uint32_t(kind_of<element>()));
      append(out, std::uint64_t(std::size(value)));
      for (element const& e : value) append(out, e);
    }
  }
  void erase(std::string_view key) { by_key.erase(std::string(key)); }
  bool contains(std::string_view key) const { return by_key.count(std::string(key)) > 0; }
  /// Each key's value as the file has it, from its type on.
  std::map<std::string, std::string> const& encoded() const { return by_key; }

 private:
  template <class T>
  static constexpr gguf_kind kind_of() {
    if constexpr (std::is_arithmetic_v<T>) return detail::gguf_kind_of<T>();
    else return gguf_kind::text;
  }
  template <class T>
  static void append(std::string& out, T const& value) {
    if constexpr (std::is_arithmetic_v<T>) {
      out.append(reinterpret_cast<char const*>(&value), sizeof value);
    } else {
      std::string_view const text(value);
      append(out, std::uint64_t(text.size()));
      out += text;
    }
  }
  std::map<std::string, std::string> by_key;
};

namespace detail {

struct placed_gguf_tensor {
  tensor_to_write const* tensor;
  weight_layout const* type;
  std::size_t offset, bytes;
};

inline weight_layout const* find_gguf_type(std::string_view name) {
  for (auto const& l : weight_layouts)
    if (l.name == name) return &l;
  for (auto const& l : other_gguf_types)
    if (l.name == name) return &l;
  return nullptr;
}

inline std::size_t round_up_to_alignment(std::size_t at) {
  return (at + default_gguf_alignment - 1) / default_gguf_alignment * default_gguf_alignment;
}

/// In the order given, each at the next multiple of the alignment.
inline std::vector<placed_gguf_tensor> place_gguf_tensors(path const& file, std::span<tensor_to_write const> tensors) {
  std::vector<placed_gguf_tensor> placed;
  std::set<std::string_view> seen;
  std::size_t offset = 0;
  for (auto const& t : tensors) {
    auto const refuse = [&](std::string const& what) {
      throw file_error(file.string(), "tensor '" + shown(t.name) + "' " + what);
    };
    if (t.name.empty() || t.name.size() > 64 || !seen.insert(t.name).second)
      refuse("has a name that is empty, longer than 64 bytes or there twice. Fix: give each tensor its own, shorter.");
    weight_layout const* const type = find_gguf_type(t.dtype);
    if (!type) refuse("has the type '" + t.dtype + "', which GGUF does not know. Fix: use one of F32, F16, Q8_0, ...");
    std::size_t bytes = 1;
    bool fits = !t.shape.empty() && t.shape.size() <= 4 && t.shape.back() % type->values == 0;
    for (index_t const s : t.shape) fits = fits && s > 0 && !__builtin_mul_overflow(bytes, std::size_t(s), &bytes);
    fits = fits && !__builtin_mul_overflow(bytes / std::size_t(type->values), std::size_t(type->bytes), &bytes);
    if (!fits)
      refuse("of type " + t.dtype + " cannot have the shape " + shape_text(t.shape) + ". Fix: 1 to 4 dimensions, the " +
             "last a multiple of " + std::to_string(type->values) + ", or another type.");
    placed.push_back({&t, type, offset, bytes});
    offset = round_up_to_alignment(offset + bytes);
  }
  return placed;
}

inline void write_gguf_name(file_writer& out, std::string_view name) {
  std::uint64_t const length = name.size();
  out.write(&length, sizeof length);
  out.write(name);
}

}  // namespace detail

/// Writes a GGUF file, atomically and tensor by tensor: no more than one is in memory. Tensors are in the order given,
/// aligned to 32 bytes (a `general.alignment` among the metadata is left out); their shapes have the row length last.
/// @error file_error: a name twice, a row length that the type does not allow, a disk that is full
inline void write_gguf(path const& file, gguf_metadata metadata, std::span<tensor_to_write const> tensors) {
  metadata.erase(detail::gguf_alignment_key);
  auto const placed = detail::place_gguf_tensors(file, tensors);
  for (auto const& [key, value] : metadata.encoded())
    if (key.empty() || key.size() > 65535)
      throw file_error(file.string(), "a key of the metadata has " + std::to_string(key.size()) +
                                          " bytes, and 1 to 65535 are allowed. Fix: use a shorter one.");
  write_file_atomically(file, [&](file_writer& out) {
    auto const number = [&](auto n) { out.write(&n, sizeof n); };
    out.write("GGUF");
    number(std::uint32_t(3));
    number(std::uint64_t(placed.size()));
    number(std::uint64_t(metadata.encoded().size()));
    for (auto const& [key, value] : metadata.encoded()) {
      detail::write_gguf_name(out, key);
      out.write(value);
    }
    for (auto const& p : placed) {
      detail::write_gguf_name(out, p.tensor->name);
      number(std::uint32_t(p.tensor->shape.size()));
      for (auto s = p.tensor->shape.rbegin(); s != p.tensor->shape.rend(); ++s) number(std::uint64_t(*s));
      number(p.type->gguf_type);
      number(std::uint64_t(p.offset));
    }
    std::string const zeros(detail::default_gguf_alignment, '\0');
    auto const pad = [&] {
      out.write(zeros.data(), detail::round_up_to_alignment(out.bytes_written()) - out.bytes_written());
    };
    std::vector<std::byte> content;
    for (auto const& p : placed) {
      pad();
      if (p.tensor->fill) {
        content.resize(p.bytes);
        p.tensor->fill(content);
      }
      out.write(p.tensor->fill ? content.data() : p.tensor->data, p.bytes);
    }
    pad();
  });
}

}  // namespace tenon::io
