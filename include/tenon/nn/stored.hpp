// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Blocks bound to weights as files hold them: mapped, in any format, for forward passes in fp32.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <tenon/core/weight_format.hpp>
#include <tenon/nn/linear.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/ops/elementwise.hpp>
#include <tenon/ops/linear.hpp>

namespace tenon::nn {

struct stored_matrix;
/// Sees what matrices are multiplied with: how a file's weights are used by texts.
class input_watcher {
 public:
  virtual ~input_watcher() = default;
  virtual void see(stored_matrix const& weight, matrix_view<float const> x) = 0;
};

/// A matrix, piece by piece: q, k and v of a fused projection may be in formats of their own.
struct stored_matrix {
  std::vector<weight_view> pieces{};  ///< one below the other
  weight_view table{};                ///< of tokens: all rows, whichever this rank has as pieces
  input_watcher* watcher = nullptr;

  /// @error argument_error when leaves that ranks share cut the groups of weights in blocks
  void check_leaf(index_t leaf) const {
    for (auto const& p : pieces)
      if (is_blocks(p.format) && leaf % ops::quantized_block::size)
        throw argument_error("tenon::nn: the input features are summed in leaves of " + std::to_string(leaf) +
                             ", which cut the groups of 32 of weights in " + layout_of(p.format).name +
                             ". Fix: one tensor rank, or weights in F32, F16 or BF16.");
  }
  /// out[i] = scale row tokens[i] (+ row places[i] of `positions`, unless it is empty). @shape out [t, cols]
  template <class Context>
  void look_up(Context& exec, std::span<std::int32_t const> tokens, stored_matrix const& positions,
               std::span<index_t const> places, matrix_view<float> out, float scale) const {
    ops::table_rows(exec, ops::table_rows_args{tokens, table, out, scale});
    if (positions.table.empty()) return;
    arena_scope scope(exec.scratch());
    std::span const rows(exec.scratch().template allocate<std::int32_t>(out.extent(0)), tokens.size());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = std::int32_t(places[i]);
    auto const added = exec.scratch().template allocate_matrix<float>(out.extent(0), out.extent(1));
    ops::table_rows(exec, ops::table_rows_args{rows, positions.table, added});
    ops::add(exec, ops::add_args<float, float>{out.data(), added.data(), out.size()});
  }
};

template <>
struct weights_of<stored const> {
  using matrix = stored_matrix;
  using vector = float const*;
};

/// As the other `product`: y = x W^T and what is fused behind it. Activations are quantized once for all pieces.
template <class Context>
void product(Context& exec, matrix_view<float const> x, stored_matrix const& weight, matrix_view<float> y,
             index_t leaf = 0, float const* bias = nullptr, epilogue<float> const& after = {}) {
  if (weight.watcher) weight.watcher->see(weight, x);
  arena_scope scope(exec.scratch());
  matrix_view<ops::quantized_block const> quantized;
  index_t row = 0;
  for (std::span<weight_view const> left = weight.pieces; !left.empty();) {
    bool const in_blocks = is_blocks(left[0].format);
    // Pieces of one kind, as one product.
    std::size_t alike = 0;
    index_t rows = 0;
    for (; alike < left.size() && is_blocks(left[alike].format) == in_blocks; ++alike) rows += left[alike].rows;
    if (in_blocks && quantized.empty()) {
      auto const blocks = exec.scratch().template allocate_matrix<ops::quantized_block>(
          x.extent(0), x.extent(1) / ops::quantized_block::size);
      ops::quantize_rows(exec, ops::quantize_rows_args{x, blocks});
      quantized = blocks;
    }
    ops::linear(exec, ops::linear_args{
                          .x = x,
                          .weight = left[0],
                          .below = left.subspan(1, alike - 1),
                          .y = columns_of(y, row, rows),
                          .leaf = in_blocks ? round_up(leaf, ops::quantized_block::size) : leaf,
                          .bias = bias ? bias + row : nullptr,
                          .activation = after.activation,
                          .residual = after.residual.empty() ? after.residual : columns_of(after.residual, row, rows),
                          .quantized = in_blocks ? quantized : decltype(quantized){}});
    row += rows;
    left = left.subspan(alike);
  }
}

/// Where stored weights come from, by the names that models give them.
class weight_source {
 public:
  virtual ~weight_source() = default;
  /// @error error that names the file and the tensor when it is missing or of another shape
  virtual weight_view matrix(std::string const& name, index_t rows, index_t cols) = 0;
  virtual float const* vector(std::string const& name, index_t size) = 0;
  /// Columns [first, first + count) of a matrix, in memory of the source.
  virtual weight_view columns(weight_view whole, index_t first, index_t count) = 0;
  /// Values that live as long as the source.
  virtual float const* keep(std::vector<float> values) = 0;
  /// Of products with its matrices; null: nobody watches.
  virtual input_watcher* watcher() { return nullptr; }
};

/// Binds a model, or what a rank of tensor parallelism has of it, to the weights of a source.
template <>
class binder<stored const> : public name_scope {
 public:
  explicit binder(weight_source& from) : source(&from) {}
  void bucket() {}
  void expert_bucket() {}
  float const* position() { return nullptr; }

  stored_matrix matrix(std::vector<row_piece> const& pieces, char const* suffix, index_t cols, initializer,
                       parameter_kind kind = parameter_kind::matrix, column_range columns = {}) {
    stored_matrix m{.watcher = source->watcher()};
    for (auto const& piece : pieces) {
      auto view = source->matrix(prefix + piece.name + suffix, piece.whole_rows ? piece.whole_rows : piece.rows,
                                 columns.whole ? columns.whole : cols);
      if (kind == parameter_kind::embedding) m.table = view;
      if (columns.whole > cols) view = source->columns(view, columns.first, cols);
      if (piece.held.empty()) m.pieces.push_back(view);
      for (auto const& part : piece.held) m.pieces.push_back(rows_of(view, part));
    }
    return m;
  }
  float const* vector(std::string const& name, index_t size, initializer) {
    return source->vector(prefix + name, size);
  }
  float const* bias(std::vector<row_piece> const& pieces) {
    std::vector<float> all;
    for (auto const& piece : pieces) {
      index_t const whole = piece.whole_rows ? piece.whole_rows : piece.rows;
      float const* const values = source->vector(prefix + piece.name + ".bias", whole);
      if (piece.held.empty()) all.insert(all.end(), values, values + whole);
      for (auto const& part : piece.held) all.insert(all.end(), values + part.first, values + part.first + part.count);
    }
    return source->keep(std::move(all));
  }

 private:
  static weight_view rows_of(weight_view m, row_range part) {
    return {m.format, m.row(part.first), part.count, m.cols};
  }
  weight_source* source;
};

}  // namespace tenon::nn
