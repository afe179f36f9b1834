// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file How blocks name and place their parameters: one flat buffer, bound to aggregates of views.
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/core/parameter.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/core/view.hpp>

namespace tenon::nn {

/// Stands for an element type in `parameters<stored const>`: weights as a file holds them (nn/stored.hpp), for forward only.
struct stored;
/// What holds weights of element type T.
template <class T>
struct weights_of {
  using matrix = matrix_view<T>;
  using vector = T*;
};
template <class T>
using matrix_of = typename weights_of<T>::matrix;
template <class T>
using vector_of = typename weights_of<T>::vector;

using tenon::initializer;
using tenon::parameter_kind;
using tenon::parameter_spec;

/// A block of rows with a name of its own in files: the q, k and v of a fused projection.
struct row_piece {
  std::string name;
  index_t rows = 0;
  std::vector<row_range> held{};  ///< which rows of the whole piece a rank has; empty: all
  index_t whole_rows = 0;         ///< of the piece; 0: as `rows`
};
/// Which columns of a whole matrix a rank has; the default stands for all.
struct column_range {
  index_t first = 0, whole = 0;
};

/// Where a bucket of parameters begins in the flat buffer.
struct bucket_begin {
  index_t at = 0;
  bool experts = false;  ///< ranks of expert parallelism hold different ones
};

/// The names of parameters, block within block.
class name_scope {
 public:
  /// Names bound within `inner()` begin with `name` and a dot.
  template <class Inner>
  auto scope(std::string_view name, Inner&& inner) {
    std::size_t const before = prefix.size();
    if (!name.empty()) prefix.append(name).append(".");
    auto result = inner();
    prefix.resize(before);
    return result;
  }

 protected:
  std::string prefix;
};

/// Walks a model's parameters in a fixed order, each block taking its own: with a buffer it hands out views into it,
/// with a list of specs it writes down names and shapes. One `bind` function per block serves both.
///
/// A model says by `bucket()` where a new bucket of parameters begins: what is gathered, reduced and updated as one.
template <class T>
class binder : public name_scope {
 public:
  explicit binder(T* buffer) : base(buffer) {}
  /// Buckets that lie apart: bucket i begins at `bases[i]`.
  explicit binder(std::span<T* const> bucket_bases) : bases(bucket_bases) {}
  /// Writes down names and shapes, and where buckets begin.
  explicit binder(std::vector<parameter_spec>* list, std::vector<bucket_begin>* bucket_begins = nullptr)
      : specs(list), begins(bucket_begins) {}

  /// What follows belongs to the next bucket.
  void bucket() { begin_bucket(false); }
  /// The same; what follows are experts, of which ranks of expert parallelism hold different ones.
  void expert_bucket() { begin_bucket(true); }

  /// A matrix [sum of piece rows, cols] named `<scope><piece><suffix>`.
  matrix_view<T> matrix(std::vector<row_piece> const& pieces, char const* suffix, index_t cols, initializer init,
                        parameter_kind kind = parameter_kind::matrix, column_range columns = {}) {
    T* const begin = align();
    index_t rows = 0;
    for (auto const& piece : pieces) {
      add({prefix + piece.name + suffix, piece.rows, cols, offset, init, kind, piece.whole_rows, columns.whole,
           piece.held, columns.first});
      rows += piece.rows;
    }
    return tenon::matrix(begin, rows, cols);
  }
  /// A vector of `size` values.
  T* vector(std::string const& name, index_t size, initializer init) {
    T* const begin = align();
    add({prefix + name, 1, size, offset, init, parameter_kind::vector});
    return begin;
  }
  /// The biases of a matrix's pieces, one after the other.
  T* bias(std::vector<row_piece> const& pieces) {
    T* const begin = align();
    for (auto const& piece : pieces)
      add({prefix + piece.name + ".bias",
           1,
           piece.rows,
           offset,
           {},
           parameter_kind::vector,
           0,
           piece.whole_rows,
           piece.held});
    return begin;
  }
  /// Where the next parameter begins.
  T* position() { return align(); }
  /// Values bound so far, padding included.
  index_t size() const { return round_up(offset, lanes); }

 private:
  void begin_bucket(bool experts) {
    offset = round_up(offset, lanes);
    if (begins) begins->push_back({offset, experts});
    if (bases.empty()) return;
    base = bases[next_bucket++];
    origin = offset;
  }
  T* align() {
    offset = round_up(offset, lanes);
    return base ? base + (offset - origin) : nullptr;
  }
  void add(parameter_spec const& spec) {
    if (specs) specs->push_back(spec);
    offset += spec.size();
  }
  T* base = nullptr;
  std::span<T* const> bases;
  std::size_t next_bucket = 0;
  std::vector<parameter_spec>* specs = nullptr;
  std::vector<bucket_begin>* begins = nullptr;
  index_t offset = 0, origin = 0;
};

}  // namespace tenon::nn
