// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a file of weights is to a loader, whatever its kind: names, and a view for each.
#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/weight_format.hpp>

namespace tenon::io {

/// An open file, or several, that weights can be taken from without a copy: gguf_file, hf_folder. `find` gives nothing
/// when there is no such tensor; a tensor of more than two dimensions is a matrix of its rows, a vector is one row.
template <class Source>
concept WeightSource = requires(Source const& s, std::string_view name) {
  { s.name() } -> std::same_as<std::string const&>;  // for messages
  { s.names() } -> std::same_as<std::vector<std::string_view>>;
  { s.find(name) } -> std::same_as<std::optional<weight_view>>;
};

namespace detail {

/// A name from a file as messages show it: not too long, and on one line.
inline std::string shown(std::string_view name) {
  std::string out(name.substr(0, 100));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20) c = '?';
  return name.size() > 100 ? out + "..." : out;
}

inline std::string weight_format_names() {
  std::string out;
  for (auto const& l : weight_layouts) (out.empty() ? out : out += ", ") += l.name;
  return out;
}
/// What is thrown for a tensor that is there but no weight: integers, or blocks that tenon has no kernels for.
inline file_error not_a_weight(std::string const& file, std::string_view tensor, std::string const& type) {
  return file_error(file, "tensor '" + shown(tensor) + "' is stored as " + type +
                              ", which tenon does not compute with. Fix: use a file whose weights are in " +
                              weight_format_names() + ".");
}

}  // namespace detail

/// What was found in a file for a name, which must be there with this shape.
/// @error file_error that says what is there instead   @test tests/io/gguf_test.cpp
inline weight_view expect_weights(std::optional<weight_view> const& w, std::string const& file, std::string_view name,
                                  index_t rows, index_t cols) {
  auto const shape = [](index_t r, index_t c) { return "[" + std::to_string(r) + ", " + std::to_string(c) + "]"; };
  if (!w)
    throw file_error(file, "has no tensor '" + detail::shown(name) + "' of shape " + shape(rows, cols) +
                               ". Fix: use a file of the kind of model that is loaded.");
  if (w->rows != rows || w->cols != cols)
    throw file_error(file, "tensor '" + detail::shown(name) + "' has the shape " + shape(w->rows, w->cols) + ", but " +
                               shape(rows, cols) +
                               " is expected. Fix: use a file of the kind of model that is loaded.");
  return *w;
}
template <WeightSource Source>
weight_view weights_at(Source const& source, std::string_view name, index_t rows, index_t cols) {
  return expect_weights(source.find(name), source.name(), name, rows, cols);
}

}  // namespace tenon::io
