// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The weights of a model in a file, by the names that models give them.
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <tenon/exec/host/context.hpp>
#include <tenon/io/weight_source.hpp>
#include <tenon/nn/stored.hpp>
#include <tenon/ops/linear.hpp>

namespace tenon::infer {

/// Matrices stay where the file has them; vectors become fp32 where they are not.
/// @param rename a model's name for a tensor -> the file's
template <io::WeightSource File>
class file_weights final : public nn::weight_source {
 public:
  file_weights(exec::host_context& context, File const& from, std::function<std::string(std::string const&)> rename)
      : exec(context), file(from), file_name(std::move(rename)) {}

  weight_view matrix(std::string const& name, index_t rows, index_t cols) override {
    return io::weights_at(file, file_name(name), rows, cols);
  }
  float const* vector(std::string const& name, index_t size) override {
    auto const stored = io::weights_at(file, file_name(name), 1, size);
    if (stored.format == weight_format::f32 && reinterpret_cast<std::uintptr_t>(stored.data) % alignof(float) == 0)
      return reinterpret_cast<float const*>(stored.data);
    std::vector<float> values(static_cast<std::size_t>(size));
    std::int32_t const row = 0;
    ops::table_rows(exec, ops::table_rows_args{{&row, 1}, stored, tenon::matrix(values.data(), 1, size)});
    return keep(std::move(values));
  }
  weight_view columns(weight_view whole, index_t first, index_t count) override {
    auto const& layout = layout_of(whole.format);
    if (first % layout.values || count % layout.values)
      throw argument_error("tenon::infer: columns [" + std::to_string(first) + ", " + std::to_string(first + count) +
                           ") of a matrix in " + layout.name + " cut its blocks of " + std::to_string(layout.values) +
                           ". Fix: fewer tensor ranks.");
    weight_view part{whole.format, nullptr, whole.rows, count};
    std::vector<std::byte>& copy = parts.emplace_back(std::size_t(part.rows * part.row_bytes()));
    part.data = copy.data();
    for (index_t r = 0; r < part.rows; ++r)
      std::memcpy(copy.data() + r * part.row_bytes(), whole.row(r) + first / layout.values * layout.bytes,
                  std::size_t(part.row_bytes()));
    return part;
  }
  float const* keep(std::vector<float> values) override { return vectors.emplace_back(std::move(values)).data(); }

 private:
  exec::host_context& exec;
  File const& file;
  std::function<std::string(std::string const&)> file_name;
  std::deque<std::vector<float>> vectors;
  std::deque<std::vector<std::byte>> parts;
};

}  // namespace tenon::infer
