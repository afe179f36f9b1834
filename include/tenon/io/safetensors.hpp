// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Reading and writing safetensors: a length, a JSON header, one buffer of little-endian row-major tensors.
/// @source The format's description in the repository huggingface/safetensors, README.md
/// @test tests/io/safetensors_test.cpp, tests/fuzz/safetensors_fuzz_test.cpp
#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/core/element.hpp>
#include <tenon/core/json_text.hpp>
#include <tenon/core/view.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/io/safetensors_header.hpp>

namespace tenon::io {

static_assert(std::endian::native == std::endian::little,
              "tenon::io: safetensors files are little-endian and are "
              "mapped as they are. Fix: use a little-endian machine.");

/// The types that a tensor of a safetensors file can be seen as.
template <class T>
concept StoredElement = Element<T> ||(std::integral<T> && sizeof(T) <= 8) || std::same_as<T, double>;

/// The name a type has in safetensors files: "F32", "BF16", "I64", ...
template <StoredElement T>
constexpr char const* dtype_name() {
  if constexpr (Element<T>) return element_name<T>();
  else if constexpr (std::same_as<T, double>) return "F64";
  else if constexpr (std::same_as<T, bool>) return "BOOL";
  else if constexpr (sizeof(T) == 1) return std::is_signed_v<T> ? "I8" : "U8";
  else if constexpr (sizeof(T) == 2) return std::is_signed_v<T> ? "I16" : "U16";
  else if constexpr (sizeof(T) == 4) return std::is_signed_v<T> ? "I32" : "U32";
  else return std::is_signed_v<T> ? "I64" : "U64";
}

/// "[2, 3]"
inline std::string shape_text(std::span<index_t const> shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) (i ? out += ", " : out) += std::to_string(shape[i]);
  return out + "]";
}

/// A tensor of an open file: how it is stored, and where its bytes are.
struct stored_tensor {
  std::string dtype;
  std::vector<index_t> shape;
  std::span<std::byte const> bytes;
};

/// An open safetensors file, mapped: opening reads the header only, however large the file. Every promise of the format
/// is checked: the header's length, its JSON, no key twice, known types, sizes that match shapes without overflow, and
/// a buffer that the tensors cover without hole or overlap.
/// @error file_error that names the file, the tensor, what was found and what was expected
class safetensors_file {
 public:
  using tensor_map = std::map<std::string, stored_tensor, std::less<>>;
  using text_map = std::map<std::string, std::string, std::less<>>;

  explicit safetensors_file(path file) : source(std::move(file)) { parse(source.bytes(), source.file().string()); }
  /// The content of a file that is in memory; `bytes` must outlive this object. `name` is for messages.
  safetensors_file(std::span<std::byte const> bytes, std::string const& name) { parse(bytes, name); }

  std::string const& name() const { return shown_name; }
  /// All tensors by name.
  tensor_map const& tensors() const { return by_name; }
  /// The free text under "__metadata__".
  text_map const& metadata() const { return texts; }
  /// What is in the file before the tensors' bytes.
  std::span<std::byte const> header() const { return before_tensors; }
  bool contains(std::string_view tensor) const { return by_name.find(tensor) != by_name.end(); }

  /// @error file_error when there is no such tensor
  stored_tensor const& at(std::string_view tensor) const {
    auto const found = by_name.find(tensor);
    if (found != by_name.end()) return found->second;
    std::string const first = by_name.empty() ? "no tensor at all" : "'" + detail::shown(by_name.begin()->first) + "'";
    throw file_error(shown_name, "has no tensor '" + detail::shown(tensor) + "' (it has " +
                                     std::to_string(by_name.size()) + ", the first is " + first +
                                     "). Fix: use a file of the same kind of model.");
  }
  /// The values of a tensor, which must be stored as T with exactly this shape.
  template <StoredElement T>
  std::span<T const> values_of(std::string_view tensor, std::span<index_t const> shape) const {
    stored_tensor const& t = at(tensor);
    if (t.dtype != dtype_name<T>() || !std::equal(shape.begin(), shape.end(), t.shape.begin(), t.shape.end()))
      throw file_error(shown_name, "tensor '" + detail::shown(tensor) + "' is " + t.dtype + " " + shape_text(t.shape) +
                                       ", but " + dtype_name<T>() + " " + shape_text(shape) +
                                       " is expected. Fix: use a file of the same model and precision.");
    return {reinterpret_cast<T const*>(t.bytes.data()), t.bytes.size() / sizeof(T)};
  }
  template <StoredElement T>
  std::span<T const> values_of(std::string_view tensor, std::initializer_list<index_t> shape) const {
    return values_of<T>(tensor, std::span<index_t const>(shape.begin(), shape.size()));
  }
  /// The same as a view: `file.view_of<float>("wte.weight", {50257, 768})`.
  template <StoredElement T, std::size_t Rank>
  view<T const, dextents<int(Rank)>> view_of(std::string_view tensor, index_t const (&shape)[Rank]) const {
    T const* const data = values_of<T>(tensor, std::span<index_t const>(shape)).data();
    return [&]<std::size_t... D>(std::index_sequence<D...>) {
      return view<T const, dextents<int(Rank)>>(data, shape[D]...);
    }
    (std::make_index_sequence<Rank>());
  }

 private:
  void parse(std::span<std::byte const> bytes, std::string const& file) {
    shown_name = file;
    detail::safetensors_header header = detail::read_safetensors_header(bytes, file);
    before_tensors = bytes.first(header.buffer_begin);
    texts = std::move(header.metadata);
    for (auto& [tensor, entry] : header.entries) {
      auto const content = bytes.subspan(header.buffer_begin + entry.begin, entry.end - entry.begin);
      by_name.emplace(
          tensor, stored_tensor{std::string(entry.type->name), std::move(entry.shape), aligned(content, *entry.type)});
    }
  }
  /// Foreign files may begin a tensor anywhere; one that its type cannot be read from in place is copied.
  std::span<std::byte const> aligned(std::span<std::byte const> bytes, detail::stored_type const& type) {
    std::size_t const need = std::bit_ceil(std::size_t(std::max(type.bits, 8)) / 8);
    if (need == 1 || bytes.empty() || reinterpret_cast<std::uintptr_t>(bytes.data()) % need == 0) return bytes;
    copies.emplace_back(new std::uint64_t[bytes.size() / 8 + 1]);
    std::memcpy(copies.back().get(), bytes.data(), bytes.size());
    return {reinterpret_cast<std::byte const*>(copies.back().get()), bytes.size()};
  }

  mapped_file source;
  std::string shown_name;
  std::span<std::byte const> before_tensors;
  tensor_map by_name;
  text_map texts;
  std::vector<std::unique_ptr<std::uint64_t[]>> copies;
};

/// A tensor to be written: row-major, without gaps.
struct tensor_to_write {
  std::string name;
  std::string dtype;
  std::vector<index_t> shape;
  void const* data = nullptr;
  std::function<void(std::span<std::byte>)> fill{};  ///< writes the bytes when its turn comes, where there is no `data`
};
/// A tensor_to_write with the type's own dtype name.
template <StoredElement T>
tensor_to_write stored_as(std::string name, std::vector<index_t> shape, T const* data) {
  return {std::move(name), dtype_name<T>(), std::move(shape), data, {}};
}

namespace detail {

/// One tensor's place in the file to be.
struct placed_tensor {
  tensor_to_write const* tensor;
  stored_type const* type;
  std::size_t bytes;
};

/// Types with wider elements first, then by name: every tensor is aligned to its element, and the file is a function
/// of what is in it, not of the order in which it is listed.
inline std::vector<placed_tensor> place_tensors(path const& file, std::span<tensor_to_write const> tensors) {
  std::vector<placed_tensor> placed;
  for (auto const& t : tensors) {
    stored_type const* const type = find_stored_type(t.dtype);
    std::size_t bytes = 0;
    if (!type)
      throw file_error(file.string(), "tensor '" + shown(t.name) + "': dtype '" + t.dtype +
                                          "' is unknown. Fix: use one of F32, BF16, F16, I32, ...");
    if (t.name == metadata_key || !is_utf8(t.name))
      throw file_error(file.string(), "'" + shown(t.name) +
                                          "' cannot be a tensor's name. Fix: use plain text that is not __metadata__.");
    if (!stored_bytes(*type, t.shape, bytes))
      throw file_error(file.string(), "tensor '" + shown(t.name) + "' of shape " + shape_text(t.shape) +
                                          " has no whole number of bytes that fits 64 bits. Fix: check the shape.");
    placed.push_back({&t, type, bytes});
  }
  std::sort(placed.begin(), placed.end(), [](placed_tensor const& a, placed_tensor const& b) {
    return a.type->bits != b.type->bits ? a.type->bits > b.type->bits : a.tensor->name < b.tensor->name;
  });
  std::map<std::string_view, int> seen;
  for (auto const& p : placed)
    if (!seen.emplace(p.tensor->name, 0).second)
      throw file_error(file.string(),
                       "tensor '" + shown(p.tensor->name) + "' is there twice. Fix: give each tensor its own name.");
  return placed;
}

/// The JSON header, padded with spaces so that the buffer begins at a page: what lies at a page of memory too goes
/// straight to the disk.
inline std::string safetensors_header_text(std::span<placed_tensor const> placed,
                                           safetensors_file::text_map const& metadata) {
  std::string out = "{";
  if (!metadata.empty()) {
    append_json_string(out, metadata_key);
    out += ":{";
    for (bool first = true; auto const& [key, value] : metadata) {
      if (!std::exchange(first, false)) out += ',';
      append_json_string(out, key);
      out += ':';
      append_json_string(out, value);
    }
    out += '}';
  }
  std::size_t begin = 0;
  for (auto const& p : placed) {
    if (out.size() > 1) out += ',';
    append_json_string(out, p.tensor->name);
    out += ":{\"dtype\":\"" + p.tensor->dtype + "\",\"shape\":[";
    for (std::size_t d = 0; d < p.tensor->shape.size(); ++d)
      (d ? out += ',' : out) += std::to_string(p.tensor->shape[d]);
    out += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(begin + p.bytes) + "]}";
    begin += p.bytes;
  }
  out += '}';
  out.append((4096 - (out.size() + 8) % 4096) % 4096, ' ');
  return out;
}

}  // namespace detail

/// Writes a safetensors file, atomically and straight from the tensors' memory. The same tensors and texts give the
/// same bytes, in whatever order they are listed.
/// @error file_error: a name twice, an unknown dtype, a disk that is full
inline void write_safetensors(path const& file, std::span<tensor_to_write const> tensors,
                              safetensors_file::text_map const& metadata = {}) {
  for (auto const& [key, value] : metadata)
    if (!detail::is_utf8(key) || !detail::is_utf8(value))
      throw file_error(file.string(), "the metadata has text that is not UTF-8. Fix: convert it first.");
  auto const placed = detail::place_tensors(file, tensors);
  std::string const header = detail::safetensors_header_text(placed, metadata);
  if (header.size() > detail::most_header_bytes)
    throw file_error(file.string(),
                     "its header would have " + std::to_string(header.size()) +
                         " bytes, and the format ends at 100000000. Fix: fewer tensors or less metadata.");
  write_file_atomically(file, [&](file_writer& out) {
    std::uint64_t const length = header.size();
    out.write(&length, sizeof length);
    out.write(header);
    std::vector<std::byte> content;
    std::span<std::byte const> run;  // tensors that lie behind each other in memory too are written as one
    for (auto const& p : placed) {
      auto const* data = static_cast<std::byte const*>(p.tensor->data);
      if (p.tensor->fill || data != run.data() + run.size()) out.write(std::exchange(run, {data, 0}));
      if (p.tensor->fill) {
        content.resize(p.bytes);
        p.tensor->fill(content);
        out.write(content);
      } else {
        run = {run.data(), run.size() + p.bytes};
      }
    }
    out.write(run);
  });
}
inline void write_safetensors(path const& file, std::initializer_list<tensor_to_write> tensors,
                              safetensors_file::text_map const& metadata = {}) {
  write_safetensors(file, std::span<tensor_to_write const>(tensors.begin(), tensors.size()), metadata);
}

}  // namespace tenon::io
