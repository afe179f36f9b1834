// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What is said about a parameter to those who never see its block: optimizers, files, the planner.
#include <string>

#include <tenon/core/view.hpp>

namespace tenon {

/// Normal with this standard deviation and mean `mean` (0 deviation: the constant `mean`).
struct initializer {
  float stddev = 0;
  float mean = 0;
};
/// What an optimizer may do with a parameter: Muon takes matrices, weight decay takes matrices and embeddings.
enum class parameter_kind { matrix, embedding, vector };

/// One named tensor, as files know it: row-major [rows, cols] (a vector has one row) at `offset` of the flat buffer.
struct parameter_spec {
  std::string name;
  index_t rows = 1, cols = 0, offset = 0;
  initializer init{};
  parameter_kind kind = parameter_kind::matrix;
  index_t size() const { return rows * cols; }
};

}  // namespace tenon
