// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Reading GGUF, the file of a whole model: metadata, vocabulary and weights, mapped and never copied.
/// @source docs/gguf.md of ggml   @test tests/io/gguf_test.cpp, tests/fuzz/gguf_fuzz_test.cpp
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <tenon/core/weight_format.hpp>
#include <tenon/io/gguf_header.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/io/weight_source.hpp>

namespace tenon::io {

namespace detail {

/// The kind that holds numbers of type T as they are in memory.
template <class T>
constexpr gguf_kind gguf_kind_of() {
  if constexpr (std::same_as<T, bool>) return gguf_kind::boolean;
  else if constexpr (std::same_as<T, float>) return gguf_kind::f32;
  else if constexpr (std::same_as<T, double>) return gguf_kind::f64;
  else if constexpr (sizeof(T) == 1) return std::is_signed_v<T> ? gguf_kind::i8 : gguf_kind::u8;
  else if constexpr (sizeof(T) == 2) return std::is_signed_v<T> ? gguf_kind::i16 : gguf_kind::u16;
  else if constexpr (sizeof(T) == 4) return std::is_signed_v<T> ? gguf_kind::i32 : gguf_kind::u32;
  else return std::is_signed_v<T> ? gguf_kind::i64 : gguf_kind::u64;
}
inline constexpr char const* gguf_kind_names[] = {"U8",   "I8",   "U16",   "I16", "U32", "I32", "F32",
                                                  "BOOL", "text", "array", "U64", "I64", "F64"};

template <class T>
struct is_packed : std::false_type {};
template <class T>
struct is_packed<packed_values<T>> : std::true_type {
  using element = T;
};

/// What `get<T>` takes, in words.
template <class T>
std::string gguf_expectation() {
  if constexpr (std::same_as<T, bool>) return "a BOOL";
  else if constexpr (std::integral<T>)
    return "a whole number from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
           std::to_string(std::numeric_limits<T>::max());
  else if constexpr (std::floating_point<T>) return "a number";
  else if constexpr (std::same_as<T, std::string_view>) return "text";
  else if constexpr (std::same_as<T, gguf_strings>) return "an array of text";
  else return std::string("an array of ") + gguf_kind_names[int(gguf_kind_of<typename is_packed<T>::element>())];
}
inline std::string gguf_found(gguf_value const& v) {
  std::string const name = gguf_kind_names[int(v.kind)];
  return v.kind == gguf_kind::array ? "an array of " + std::to_string(v.count) + " " + gguf_kind_names[int(v.element)]
                                    : name;
}

/// function(number) with the number of a scalar; false when it is none.
template <class Function>
bool with_gguf_number(gguf_value const& v, Function&& function) {
  bool const found =
      [&]<class... T>(std::type_identity<T>...) {
        return ((v.kind == gguf_kind_of<T>() && (function(packed_values<T>(v.payload().data(), 1)[0]), true)) || ...);
      }(std::type_identity<std::uint8_t>{}, std::type_identity<std::int8_t>{}, std::type_identity<std::uint16_t>{},
        std::type_identity<std::int16_t>{}, std::type_identity<std::uint32_t>{}, std::type_identity<std::int32_t>{},
        std::type_identity<std::uint64_t>{}, std::type_identity<std::int64_t>{}, std::type_identity<float>{},
        std::type_identity<double>{});
  return found;
}

}  // namespace detail

/// The value as a T: bool; an integer, from any integer kind that fits; float or double, from any number;
/// std::string_view; gguf_strings; packed_values<number> of exactly that element. Nothing when it is something else.
template <class T>
std::optional<T> gguf_value_as(gguf_value const& v) {
  std::byte const* const data = v.payload().data();
  if constexpr (std::same_as<T, bool>) {
    if (v.kind == gguf_kind::boolean) return *data != std::byte{0};
  } else if constexpr (std::integral<T> || std::floating_point<T>) {
    std::optional<T> out;
    detail::with_gguf_number(v, [&](auto number) {
      if constexpr (std::floating_point<T>) out = T(number);
      else if constexpr (std::integral<decltype(number)>)
        if (std::in_range<T>(number)) out = T(number);
    });
    return out;
  } else if constexpr (std::same_as<T, std::string_view>) {
    if (v.kind == gguf_kind::text) return *gguf_strings(v.payload(), 1).begin();
  } else if constexpr (std::same_as<T, gguf_strings>) {
    if (v.kind == gguf_kind::array && v.element == gguf_kind::text) return gguf_strings(v.payload(), v.count);
  } else {
    using element = typename detail::is_packed<T>::element;
    if (v.kind == gguf_kind::array && v.element == detail::gguf_kind_of<element>()) return T(data, v.count);
  }
  return {};
}

/// The file that is part `number` of `count`, beside part 1: "NAME-00001-of-00003.gguf".
inline path gguf_part(path const& first, int number, int count) {
  char ending[40];
  std::snprintf(ending, sizeof ending, "-%05d-of-%05d.gguf", number, count);
  std::string const name = first.filename().string();
  std::string_view const suffix = "-00001-of-00001.gguf";
  return first.parent_path() / (name.substr(0, name.size() - std::min(name.size(), suffix.size())) + ending);
}

/// An open model file, mapped; of one in parts the first is named, and the others are opened with it. Opening checks
/// all of the head (counts, types, sizes, alignment, names, and that tensors lie apart and within the file) and touches
/// no tensor. Everything that it returns lies in the file and lives as long as this object.
/// @error file_error that names the file, the key or tensor, what was found and what was expected
class gguf_file {
 public:
  using value_map = std::map<std::string_view, gguf_value>;
  using tensor_map = std::map<std::string_view, gguf_tensor>;

  explicit gguf_file(path const& file) : shown_name(file.string()) {
    sources.emplace_back(file);
    head = detail::gguf_reader(sources.back().bytes(), shown_name).read();
    open_parts(file);
  }
  /// The content of a file that is in memory, at a multiple of 8; `bytes` must outlive this object.
  gguf_file(std::span<std::byte const> bytes, std::string name) : shown_name(std::move(name)) {
    head = detail::gguf_reader(bytes, shown_name).read();
  }

  std::string const& name() const { return shown_name; }
  value_map const& metadata() const { return head.metadata; }
  tensor_map const& tensors() const { return head.tensors; }

  /// The value of a key as `gguf_value_as<T>`, which must be there.
  template <class T>
  T get(std::string_view key) const {
    if (std::optional<T> const v = find_value<T>(key)) return *v;
    throw file_error(shown_name, "has no key '" + detail::shown(key) + "', and " + detail::gguf_expectation<T>() +
                                     " is expected there. Fix: use a file of the kind of model that is loaded, or "
                                     "convert it anew.");
  }
  /// The same, or nothing when there is no such key; of another type it must not be.
  template <class T>
  std::optional<T> find_value(std::string_view key) const {
    auto const found = head.metadata.find(key);
    if (found == head.metadata.end()) return {};
    if (std::optional<T> const v = gguf_value_as<T>(found->second)) return v;
    throw file_error(shown_name, "key '" + detail::shown(key) + "' is " + detail::gguf_found(found->second) + ", but " +
                                     detail::gguf_expectation<T>() +
                                     " is expected. Fix: use a file of the kind of model that is loaded, or convert it "
                                     "anew.");
  }

  std::vector<std::string_view> names() const {
    std::vector<std::string_view> out;
    for (auto const& t : head.tensors) out.push_back(t.first);
    return out;
  }
  /// @error file_error when the tensor is there in a format that tenon does not compute with
  std::optional<weight_view> find(std::string_view tensor) const {
    auto const found = head.tensors.find(tensor);
    if (found == head.tensors.end()) return {};
    gguf_tensor const& t = found->second;
    auto const format = detail::find_weight_format(t.type_number);
    if (!format)
      throw detail::not_a_weight(shown_name, tensor,
                                 t.type ? t.type->name : "the unknown type " + std::to_string(t.type_number));
    index_t const cols = t.shape.back(), rows = index_t(t.bytes.size()) / t.type->bytes * t.type->values / cols;
    return weight_view{*format, t.bytes.data(), rows, cols};
  }

 private:
  void open_parts(path const& file) {
    auto const count = find_value<std::uint16_t>("split.count").value_or(1);
    if (count < 2) return;
    std::string const where = shown_name;
    int const number = get<std::uint16_t>("split.no") + 1;
    if (number != 1 || gguf_part(file, 1, count) != file)
      throw file_error(where, "is part " + std::to_string(number) + " of " + std::to_string(count) +
                                  " of a model. Fix: keep the parts together and open the first one, '..." +
                                  gguf_part("", 1, count).string() + "'.");
    for (int part = 2; part <= count; ++part) {
      sources.emplace_back(gguf_part(file, part, count));
      gguf_file const other(sources.back().bytes(), sources.back().file().string());
      if (other.get<std::uint16_t>("split.count") != count || other.get<std::uint16_t>("split.no") + 1 != part)
        throw file_error(other.name(), "is not part " + std::to_string(part) + " of " + where +
                                           ", whatever its name says. Fix: download it again.");
      for (auto const& [tensor, content] : other.tensors())
        if (!head.tensors.emplace(tensor, content).second)
          throw file_error(other.name(), "tensor '" + detail::shown(tensor) +
                                             "' is in an earlier part too. Fix: download the parts again.");
    }
    auto const expected = find_value<std::uint64_t>("split.tensors.count");
    if (expected && *expected != head.tensors.size())
      throw file_error(where, "and its other parts should have " + std::to_string(*expected) + " tensors, but have " +
                                  std::to_string(head.tensors.size()) + ". Fix: download the parts again.");
  }

  std::vector<mapped_file> sources;
  std::string shown_name;
  detail::gguf_head head;
};
static_assert(WeightSource<gguf_file>);

}  // namespace tenon::io
