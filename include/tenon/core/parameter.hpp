// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What is said about a parameter to those who never see its block: optimizers, files, the planner.
#include <string>
#include <vector>

#include <tenon/core/view.hpp>

namespace tenon {

/// Normal with this standard deviation and mean `mean` (0 deviation: the constant `mean`).
struct initializer {
  float stddev = 0;
  float mean = 0;
};
/// What an optimizer may do with a parameter: Muon takes matrices, weight decay takes matrices and embeddings.
enum class parameter_kind { matrix, embedding, vector };

/// Consecutive rows of a whole matrix, or elements of a whole vector.
struct row_range {
  index_t first = 0, count = 0;
};

/// One named tensor: row-major [rows, cols] (a vector has one row) at `offset` of the flat buffer. Under tensor
/// parallelism a rank holds a part of what files know by that name: some rows, or some columns of all rows.
struct parameter_spec {
  std::string name;
  index_t rows = 1, cols = 0, offset = 0;
  initializer init{};
  parameter_kind kind = parameter_kind::matrix;
  index_t whole_rows = 0, whole_cols = 0;  ///< in files; 0: as here
  std::vector<row_range> held{};           ///< which rows (a vector: elements) of the whole, in order; empty: all
  index_t first_col = 0;                   ///< which column of the whole the first one is
  index_t size() const { return rows * cols; }
  /// Ranks hold different parts of it.
  bool is_sharded() const { return whole().size() != size(); }
  /// What files know.
  parameter_spec whole() const {
    return {name, whole_rows ? whole_rows : rows, whole_cols ? whole_cols : cols, 0, init, kind};
  }
  /// Calls f(here, there, n) for stretches of n elements that follow each other both here, from element `here`, and in
  /// the whole, from element `there`.
  template <class F>
  void for_each_run(F&& f) const {
    index_t const unit = kind == parameter_kind::vector ? 1 : cols;  // of `held`
    index_t const stride = kind == parameter_kind::vector ? 1 : whole_cols ? whole_cols : cols;
    row_range const all{0, size() / (unit ? unit : 1)};
    index_t here = 0;
    auto const visit = [&](row_range r) {
      if (unit == stride) return f(here, r.first * stride, r.count * unit), void(here += r.count * unit);
      for (index_t i = 0; i < r.count; ++i, here += unit) f(here, (r.first + i) * stride + first_col, unit);
    };
    if (held.empty()) visit(all);
    for (auto const& r : held) visit(r);
  }
};

}  // namespace tenon
