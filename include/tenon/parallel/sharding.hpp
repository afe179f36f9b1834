// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Who holds which part of a flat buffer: buckets, which are reduced, gathered and updated as one, each cut into a
/// shard per replica.
#include <algorithm>
#include <span>
#include <vector>

#include <tenon/core/parameter.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/ops/grad_norm.hpp>

namespace tenon::parallel {

/// Which of the buffers of a model is meant.
enum class state_kind { parameters, first, second };

/// Elements [begin, end) of a flat buffer.
struct stretch {
  index_t begin = 0, end = 0;
  constexpr index_t size() const { return end - begin; }
};
constexpr stretch intersection(stretch a, stretch b) {
  index_t const begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}
template <class Spec>
constexpr stretch stretch_of(Spec const& s) {
  return {s.offset, s.offset + s.size()};
}

/// Where a flat buffer may be cut near `at`: at a multiple of 16 values of a row, so that the order of a gradient's norm
/// does not change, or between parameters (only there when `whole` matrices are wanted).
template <class Spec>
constexpr index_t legal_cut(std::span<Spec const> specs, index_t at, bool whole) {
  for (auto const& s : specs) {
    auto const range = stretch_of(s);
    if (at <= range.begin || at >= range.end) continue;
    if (whole && s.kind == parameter_kind::matrix) return at - range.begin < range.end - at ? range.begin : range.end;
    index_t const row = (at - range.begin) / s.cols, col = (at - range.begin) % s.cols;
    return range.begin + row * s.cols + col / lanes * lanes;
  }
  return at;
}

/// Where the part of replica r of `count` begins in a bucket that takes `range`, counted from there.
template <class Spec>
constexpr index_t bucket_cut(std::span<Spec const> specs, stretch range, int r, int count, bool whole) {
  if (r == count) return range.size();
  return std::clamp(legal_cut(specs, range.begin + range.size() * r / count, whole), range.begin, range.end) -
         range.begin;
}

/// A stretch of the flat buffer that is reduced, gathered and updated as one.
struct bucket {
  stretch range;
  std::vector<std::size_t> cuts;  ///< replica r owns [cuts[r], cuts[r + 1]), counted from the beginning of the range
  stretch own;                    ///< of this replica, in the flat buffer
  index_t compact = 0;            ///< where `own` begins in a buffer that holds only own stretches
  bool experts = false;           ///< of a mixture, cut over the expert axis
  /// The cuts in bytes, for values of `size` bytes.
  std::vector<std::size_t> byte_cuts(std::size_t size) const {
    auto bytes = cuts;
    for (auto& c : bytes) c *= size;
    return bytes;
  }
};

/// Those who hold the same parameters: how many, and which one this rank is.
struct replica_of {
  int count = 1, rank = 0;
};

/// The buckets of a model, cut into a shard for each replica.
/// @param begins where buckets begin, rising from 0 @param size of the flat buffer @param whole see `legal_cut`
inline std::vector<bucket> make_buckets(std::span<parameter_spec const> specs, std::span<nn::bucket_begin const> begins,
                                        index_t size, replica_of all, replica_of of_experts, bool whole) {
  std::vector<bucket> buckets;
  index_t compact = 0;
  for (std::size_t i = 0; i < begins.size(); ++i) {
    bucket b;
    b.experts = begins[i].experts;
    b.range = {begins[i].at, i + 1 < begins.size() ? begins[i + 1].at : size};
    auto const replica = b.experts ? of_experts : all;
    for (int r = 0; r <= replica.count; ++r)
      b.cuts.push_back(std::size_t(bucket_cut(specs, b.range, r, replica.count, whole)));
    b.own = {b.range.begin + index_t(b.cuts[std::size_t(replica.rank)]),
             b.range.begin + index_t(b.cuts[std::size_t(replica.rank) + 1])};
    b.compact = compact;
    compact = round_up(compact + b.own.size(), lanes);
    buckets.push_back(std::move(b));
  }
  return buckets;
}
inline index_t compact_size(std::span<bucket const> buckets) {
  return buckets.empty() ? 0 : round_up(buckets.back().compact + buckets.back().own.size(), lanes);
}

/// What of the parameters lies in `part`, for an optimizer: whole parameters as they are, others as one row of what is
/// there. Offsets count from the beginning of `part`.
inline std::vector<parameter_spec> clip(std::span<parameter_spec const> specs, stretch part) {
  std::vector<parameter_spec> clipped;
  for (auto const& s : specs) {
    auto const there = intersection(stretch_of(s), part);
    if (there.size() <= 0) continue;
    auto c = s;
    if (there.size() != s.size()) c.rows = 1, c.cols = there.size();
    c.offset = there.begin - part.begin;
    clipped.push_back(std::move(c));
  }
  return clipped;
}

/// The same for the gradient norm: rows stay rows. @param base of element part.begin
inline void append_norm_parts(std::vector<ops::norm_part>& parts, std::span<parameter_spec const> specs, stretch part,
                              float const* base) {
  for (auto const& s : specs) {
    auto left = intersection(stretch_of(s), part);
    while (left.size() > 0) {
      float const* const p = base + (left.begin - part.begin);
      index_t const col = (left.begin - s.offset) % s.cols, rows = col == 0 ? left.size() / s.cols : 0;
      index_t const taken = rows ? rows * s.cols : std::min(left.size(), s.cols - col);
      parts.push_back(rows ? ops::norm_part{p, rows, s.cols} : ops::norm_part{p, 1, taken});
      left.begin += taken;
    }
  }
}

}  // namespace tenon::parallel
