// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The header of a safetensors file, checked. Its JSON is read event by event, so nothing is built that is not
/// needed and a key that comes twice is seen.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>
#include <tenon/io/weight_source.hpp>

namespace tenon::io::detail {

inline constexpr std::size_t most_header_bytes = 100'000'000;  // the format's own limit
inline constexpr char const* metadata_key = "__metadata__";

struct stored_type {
  std::string_view name;
  int bits;
};
inline constexpr std::array<stored_type, 22> stored_types{
    {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
     {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
     {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
     {"F64", 64},    {"I64", 64},    {"U64", 64},    {"C64", 64}}};

inline stored_type const* find_stored_type(std::string_view name) {
  for (auto const& t : stored_types)
    if (t.name == name) return &t;
  return nullptr;
}

/// Bytes of a tensor; false when that overflows, is no whole number, or a size is negative.
inline bool stored_bytes(stored_type const& type, std::span<index_t const> shape, std::size_t& bytes) {
  constexpr std::uint64_t most = std::uint64_t(std::numeric_limits<std::int64_t>::max());
  std::uint64_t count = 1;
  for (index_t const s : shape) {
    if (s < 0 || (s > 0 && count > most / std::uint64_t(s))) return false;
    count *= std::uint64_t(s);
  }
  if (count > most / std::uint64_t(type.bits)) return false;
  std::uint64_t const bits = count * std::uint64_t(type.bits);
  bytes = std::size_t(bits / 8);
  return bits % 8 == 0;
}

struct header_entry {
  stored_type const* type = nullptr;
  std::vector<index_t> shape;
  std::size_t begin = 0, end = 0;
};
struct safetensors_header {
  std::map<std::string, header_entry, std::less<>> entries;
  std::map<std::string, std::string, std::less<>> metadata;
  std::size_t buffer_begin = 0;
};

/// Receives the JSON parser's events; `what` says what is wrong when one of them returns false.
class header_reader {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  explicit header_reader(safetensors_header& h) : out(h) {}
  std::string what;

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a truth value"); }
  bool number_integer(number_integer_t) { return unexpected("a negative number"); }
  bool number_float(number_float_t, string_t const& text) { return unexpected("the number " + shown(text)); }
  bool binary(binary_t&) { return unexpected("binary data"); }
  bool number_unsigned(number_unsigned_t value) {
    if (at != place::shape && at != place::offsets) return unexpected("a number");
    if (value > number_unsigned_t(std::numeric_limits<index_t>::max())) return unexpected("a number above 2^63");
    if (at == place::shape) {
      entry.shape.push_back(index_t(value));
      return true;
    }
    if (offsets_seen == 2) return wrong("has more than two data_offsets");
    (offsets_seen++ ? entry.end : entry.begin) = std::size_t(value);
    return true;
  }
  bool string(string_t& value) {
    if (at == place::metadata) return out.metadata.emplace(field, std::move(value)).second || wrong_key(field);
    if (at != place::entry || field != "dtype") return unexpected("text");
    entry.type = find_stored_type(value);
    return entry.type || wrong("has the unknown dtype '" + shown(value) + "'");
  }
  bool key(string_t& value) {
    if (at == place::top) return tensor = std::move(value), true;
    field = std::move(value);
    if (at == place::metadata) return true;
    unsigned const bit = field == "dtype" ? 1 : field == "shape" ? 2 : field == "data_offsets" ? 4 : 0;
    if (!bit) return wrong("has the unknown field '" + shown(field) + "'");
    if (fields_seen & bit) return wrong("has the field '" + field + "' twice");
    fields_seen |= bit;
    return true;
  }
  bool start_object(std::size_t) {
    if (at == place::outside) return at = place::top, true;
    if (at != place::top) return unexpected("an object");
    if (tensor == metadata_key) {
      if (std::exchange(metadata_seen, true)) return wrong_key(tensor);
      return at = place::metadata, true;
    }
    entry = {};
    fields_seen = 0;
    offsets_seen = 0;
    return at = place::entry, true;
  }
  bool end_object() {
    if (at == place::entry) {
      if (fields_seen != 7) return wrong("lacks its dtype, shape or data_offsets");
      if (!out.entries.emplace(tensor, std::move(entry)).second) return wrong_key(tensor);
    }
    at = at == place::top ? place::outside : place::top;
    return true;
  }
  bool start_array(std::size_t) {
    if (at != place::entry || field == "dtype") return unexpected("an array");
    return at = field == "shape" ? place::shape : place::offsets, true;
  }
  bool end_array() {
    if (at == place::offsets && offsets_seen != 2) return wrong("has fewer than two data_offsets");
    return at = place::entry, true;
  }
  template <class Exception>
  bool parse_error(std::size_t position, std::string const&, Exception const&) {
    what = "its header is no valid JSON at byte " + std::to_string(position + 8);
    return false;
  }

 private:
  enum class place { outside, top, metadata, entry, shape, offsets };
  bool wrong(std::string const& problem) {
    what = "tensor '" + shown(tensor) + "' " + problem;
    return false;
  }
  bool wrong_key(std::string const& twice) {
    what = "its header has the key '" + shown(twice) + "' twice";
    return false;
  }
  bool unexpected(std::string const& found) {
    if (at == place::entry || at == place::shape || at == place::offsets)
      return wrong("has " + found + " in its field '" + field + "'");
    what = "its header has " + found + " where it should not be";
    return false;
  }
  safetensors_header& out;
  place at = place::outside;
  std::string tensor, field;
  header_entry entry;
  unsigned fields_seen = 0;
  int offsets_seen = 0;
  bool metadata_seen = false;
};

/// What a file that is not safetensors may be, by its first bytes.
inline std::string likely_kind(std::span<std::byte const> bytes) {
  constexpr std::pair<std::string_view, char const*> signs[] = {
      {"GGUF", "it looks like a GGUF file"},
      {"PK\x03\x04", "it looks like a PyTorch or zip file"},
      {"\x80\x02", "it looks like a Python pickle"},
      {"\x89HDF", "it looks like an HDF5 file"},
      {"\x93NUMPY", "it looks like a NumPy file"},
      {"version https://git-lfs", "it is a Git LFS pointer, not the file itself"}};
  std::string_view const text(reinterpret_cast<char const*>(bytes.data()), bytes.size());
  for (auto const& [sign, kind] : signs)
    if (text.substr(0, sign.size()) == sign) return std::string(", ") + kind;
  return "";
}

/// Tensors must follow each other without hole or overlap, from the buffer's first byte to its last.
inline void check_safetensors_layout(safetensors_header const& header, std::size_t buffer_bytes,
                                     std::string const& file) {
  constexpr char const* fix = ". Fix: download or save it again.";
  std::vector<std::pair<header_entry const*, std::string const*>> order;
  for (auto const& [name, entry] : header.entries) {
    std::size_t bytes = 0;
    if (entry.end < entry.begin || !stored_bytes(*entry.type, entry.shape, bytes) || bytes != entry.end - entry.begin)
      throw file_error(file, "tensor '" + shown(name) + "' has a shape and data_offsets that do not agree" + fix);
    order.emplace_back(&entry, &name);
  }
  std::sort(order.begin(), order.end(), [](auto const& a, auto const& b) {
    return std::pair(a.first->begin, a.first->end) < std::pair(b.first->begin, b.first->end);
  });
  std::size_t end = 0;
  for (auto const& [entry, name] : order) {
    if (entry->begin != end)
      throw file_error(file, "tensor '" + shown(*name) + "' begins at " + std::to_string(entry->begin) +
                                 " but the one before ends at " + std::to_string(end) + fix);
    end = entry->end;
  }
  if (end > buffer_bytes)
    throw file_error(file, "is truncated: the header speaks of " + std::to_string(header.buffer_begin + end) +
                               " bytes, the file has " + std::to_string(header.buffer_begin + buffer_bytes) + fix);
  if (end < buffer_bytes)
    throw file_error(file, "has " + std::to_string(buffer_bytes - end) + " bytes that belong to no tensor" + fix);
}

/// Reads and checks the header of a whole file's bytes.
/// @error file_error
inline safetensors_header read_safetensors_header(std::span<std::byte const> bytes, std::string const& file) {
  if (bytes.empty()) throw file_error(file, "is empty. Fix: download or save it again.");
  std::uint64_t length = 0;
  if (bytes.size() >= 8) std::memcpy(&length, bytes.data(), 8);
  bool const brace = bytes.size() > 8 && bytes[8] == std::byte{'{'};
  if (bytes.size() < 8 || (bytes.size() > 8 && !brace) || length < 2 || length > most_header_bytes)
    throw file_error(file, "is not a safetensors file" + likely_kind(bytes) + ". Fix: give a .safetensors file.");
  if (length > bytes.size() - 8)
    throw file_error(file, "is truncated: its header should have " + std::to_string(length) + " bytes, the file has " +
                               std::to_string(bytes.size() - 8) + " after the length. Fix: download or save it again.");
  safetensors_header header;
  header.buffer_begin = std::size_t(length) + 8;
  header_reader reader(header);
  auto const* const text = reinterpret_cast<char const*>(bytes.data()) + 8;
  if (!nlohmann::json::sax_parse(text, text + length, &reader))
    throw file_error(file, "cannot be read: " + reader.what + ". Fix: download or save it again.");
  check_safetensors_layout(header, bytes.size() - header.buffer_begin, file);
  return header;
}

/// Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
inline bool is_utf8(std::string_view s) {
  for (std::size_t i = 0; i < s.size();) {
    auto const first = static_cast<unsigned char>(s[i]);
    int const more = first < 0x80                    ? 0
                     : first >= 0xc2 && first < 0xe0 ? 1
                     : first >= 0xe0 && first < 0xf0 ? 2
                     : first >= 0xf0 && first < 0xf5 ? 3
                                                     : -1;
    if (more < 0 || i + std::size_t(more) >= s.size()) return false;
    for (int k = 1; k <= more; ++k) {
      auto const c = static_cast<unsigned char>(s[i + std::size_t(k)]);
      unsigned const low = k > 1 ? 0x80 : first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
      unsigned const high = k > 1 ? 0xbf : first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
      if (c < low || c > high) return false;
    }
    i += std::size_t(more) + 1;
  }
  return true;
}

}  // namespace tenon::io::detail
