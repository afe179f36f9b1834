// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Placement is a type: what a rank has of a value on a mesh, and the operations that are right for it. Any other
/// use does not compile, and the message says why in one sentence.   @test tests/comm/placement_test.cpp
///
/// `placed<T, shard<data_axis>>`: ranks along the axis have different parts of the value; `partial<data_axis>`: they
/// have summands of it. Along axes that are not named it is replicated: all ranks have the same. `placed<T>` is the
/// same everywhere. Two axes are groups of the others: `replicas_axis` (data, expert and context) and `world_axis` (all).
/// @source Xu et al. 2021, arXiv:2105.04663 (partial values beside sharded ones)
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <tenon/comm/mesh.hpp>
#include <tenon/comm/reduce.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/policy/axis.hpp>

namespace tenon::comm {

struct replicas_axis {};
struct world_axis {};

template <class Axis>
struct shard {
  using axis = Axis;
  static constexpr bool is_partial = false;
};
template <class Axis>
struct partial {
  using axis = Axis;
  static constexpr bool is_partial = true;
};

namespace detail {
// The axes of a mesh that a tag means, as bits; 0: it is no axis of a mesh.
template <class Axis>
inline constexpr unsigned axis_bits = 0;
template <>
inline constexpr unsigned axis_bits<data_axis> = 1;
template <>
inline constexpr unsigned axis_bits<expert_axis> = 2;
template <>
inline constexpr unsigned axis_bits<context_axis> = 4;
template <>
inline constexpr unsigned axis_bits<tensor_axis> = 8;
template <>
inline constexpr unsigned axis_bits<pipeline_axis> = 16;
template <>
inline constexpr unsigned axis_bits<replicas_axis> = 1 | 2 | 4;
template <>
inline constexpr unsigned axis_bits<world_axis> = 31;

template <class P>
inline constexpr unsigned placement_bits = 0;
template <class Axis>
inline constexpr unsigned placement_bits<shard<Axis>> = axis_bits<Axis>;
template <class Axis>
inline constexpr unsigned placement_bits<partial<Axis>> = axis_bits<Axis>;

template <class P, class... Ps>
inline constexpr bool is_one_of = (std::same_as<P, Ps> || ...);
template <class... Ps>
inline constexpr bool any_partial = (Ps::is_partial || ...);
template <class... Ps>
inline constexpr bool any_shard = (!Ps::is_partial || ...);
}  // namespace detail

/// A value, or a view of values, and where it is.
template <class T, class... Placements>
class placed {
  static_assert(((detail::placement_bits<Placements> != 0) && ...),
                "tenon::comm::placed: what follows the type is no placement on an axis of a mesh. "
                "Fix: shard<Axis> or partial<Axis>, e.g. shard<tensor_axis>; nothing where it is replicated.");
  static_assert((0u + ... + detail::placement_bits<Placements>) == (0u | ... | detail::placement_bits<Placements>),
                "tenon::comm::placed: two placements on one axis; replicas_axis is data, expert and context, and "
                "world_axis is all axes. Fix: one placement for each axis.");

 public:
  placed() = default;
  explicit constexpr placed(T v) : mine(std::move(v)) {}
  /// What this rank has of it.
  constexpr T& local() { return mine; }
  constexpr T const& local() const { return mine; }
  /// The value, which all ranks have.
  constexpr T const& whole() const {
    static_assert(!detail::any_partial<Placements...>,
                  "tenon::comm::placed::whole: the value is partial, this rank has a summand of it. "
                  "Fix: all_reduce it first, or take local() where a summand is meant.");
    static_assert(!detail::any_shard<Placements...>,
                  "tenon::comm::placed::whole: the value is sharded, this rank has a part of it. "
                  "Fix: all_gather it first, or take local() where the part is meant.");
    return mine;
  }

 private:
  T mine{};
};

namespace detail {

template <class...>
inline constexpr bool never = false;

template <class... Ps>
struct placements {
  template <class T>
  using of = placed<T, Ps...>;
};
template <class... Ps, class... Qs>
placements<Ps..., Qs...> operator+(placements<Ps...>, placements<Qs...>);
// Ps, but `To` (some placements or none) in place of From.
template <class From, class To, class... Ps>
using replaced = decltype((placements<>() + ... + std::conditional_t<std::same_as<Ps, From>, To, placements<Ps>>()));

// Along which group of ranks an axis is.
template <class Axis, Communicator C>
C& group_of(mesh<C>& m) {
  if constexpr (std::same_as<Axis, data_axis>) return m.data;
  else if constexpr (std::same_as<Axis, expert_axis>) return m.expert;
  else if constexpr (std::same_as<Axis, context_axis>) return m.context;
  else if constexpr (std::same_as<Axis, tensor_axis>) return m.tensor;
  else if constexpr (std::same_as<Axis, pipeline_axis>) return m.pipeline;
  else if constexpr (std::same_as<Axis, replicas_axis>) return m.replicas;
  else return m.world;
}

// What is summed: exact sums, counts, and vectors of floats by the tree (reduce.hpp).
template <class T>
concept Summable = std::same_as<T, exact_sum> || std::same_as<T, index_t> || std::same_as<T, std::span<float>>;
inline void add_to(exact_sum& sum, exact_sum const& more) { sum.add(more); }
inline void add_to(index_t& sum, index_t more) { sum += more; }
inline void add_to(std::span<float> sum, std::span<float> more) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
}
template <Communicator C>
void sum_over(C& group, exact_sum& sum) {
  comm::all_reduce(group, sum);
}
template <Communicator C>
void sum_over(C& group, std::span<float> sum) {
  comm::all_reduce(group, sum);
}
template <Communicator C>
void sum_over(C& group, index_t& count) {
  std::int64_t words[] = {count};
  group.sum(words);
  count = words[0];
}
}  // namespace detail

/// A sum over a count, both of the whole: a mean over all that was counted. It can be read, but neither added to
/// another mean nor reduced again, both of which would weigh what was counted by where it was counted.
class mean {
 public:
  template <class... Ps, class... Qs>
  mean(placed<exact_sum, Ps...> const& sum, placed<index_t, Qs...> const& count) {
    static_assert(sizeof...(Ps) == 0,
                  "tenon::comm::mean: the sum is not whole; the mean of a rank's part is not a part of the mean. "
                  "Fix: all_reduce the sum first.");
    static_assert(sizeof...(Qs) == 0,
                  "tenon::comm::mean: the count is not whole; the sum over all ranks would be divided by the count of "
                  "one. Fix: all_reduce the count, too.");
    quotient = count.local() ? sum.local().value() / double(count.local()) : 0;
  }
  template <class... Ps>
  mean(mean, placed<index_t, Ps...> const&) {
    static_assert(detail::never<Ps...>,
                  "tenon::comm::mean: a mean is divided by a count again; it would be averaged twice. "
                  "Fix: the sum in place of the mean.");
  }
  /// 0 when nothing was counted.
  double value() const { return quotient; }

 private:
  double quotient = 0;
};

/// The sum of x over the ranks along Axis, on each of them. A collective of the axis.
template <class Axis, Communicator C, class T, class... Ps>
auto all_reduce(mesh<C>& m, placed<T, Ps...> x) {
  constexpr bool is_partial = detail::is_one_of<partial<Axis>, Ps...>, is_mean = std::same_as<T, mean>;
  static_assert(!is_mean,
                "tenon::comm::all_reduce: a sum of means weighs ranks, not what was counted. "
                "Fix: all_reduce the sum and the count, and take their mean.");
  static_assert(is_mean || sizeof...(Ps) != 0,
                "tenon::comm::all_reduce: the value is replicated, so it would be added once for each rank. "
                "Fix: take it as it is, all ranks have the whole of it.");
  static_assert(!detail::is_one_of<shard<Axis>, Ps...>,
                "tenon::comm::all_reduce: the value is sharded along the axis, so different parts would be added. "
                "Fix: all_gather it, or sum what this rank has and all_reduce that.");
  static_assert(
      sizeof...(Ps) == 0 || is_partial || detail::is_one_of<shard<Axis>, Ps...>,
      "tenon::comm::all_reduce: the value is partial or sharded along other axes than the one that is reduced. "
      "Fix: the axis of its partial<Axis>.");
  static_assert(is_mean || detail::Summable<T>,
                "tenon::comm::all_reduce: a sum of this type would depend on the number of ranks. "
                "Fix: exact_sum for a floating point number, index_t for a count, std::span<float> for a vector.");
  if constexpr (is_partial && detail::Summable<T>) detail::sum_over(detail::group_of<Axis>(m), x.local());
  return typename detail::replaced<partial<Axis>, detail::placements<>, Ps...>::template of<T>(x.local());
}

/// The sum of vectors over the ranks along Axis, of which rank r of them receives [cuts[r], cuts[r + 1]) in `own`; that
/// may lie in the vector. A collective of the axis.
template <class Axis, Communicator C, class... Ps>
auto reduce_scatter(mesh<C>& m, placed<std::span<float>, Ps...> x, std::span<float> own,
                    std::span<std::size_t const> cuts) {
  constexpr bool is_partial = detail::is_one_of<partial<Axis>, Ps...>;
  static_assert(sizeof...(Ps) != 0,
                "tenon::comm::reduce_scatter: the value is replicated, so it would be added once for each rank. "
                "Fix: take this rank's part of it.");
  static_assert(!detail::is_one_of<shard<Axis>, Ps...>,
                "tenon::comm::reduce_scatter: the value is sharded along the axis, so different parts would be added. "
                "Fix: take it as it is, or reduce_scatter the partial value that it comes from.");
  static_assert(sizeof...(Ps) == 0 || is_partial || detail::is_one_of<shard<Axis>, Ps...>,
                "tenon::comm::reduce_scatter: the value is partial or sharded along other axes than the one that is "
                "reduced. Fix: the axis of its partial<Axis>.");
  if constexpr (is_partial) comm::reduce_scatter(detail::group_of<Axis>(m), x.local().data(), own.data(), cuts);
  return
      typename detail::replaced<partial<Axis>, detail::placements<shard<Axis>>, Ps...>::template of<std::span<float>>(
          own);
}

/// All parts of a vector: that of rank r along Axis is [cuts[r], cuts[r + 1]) of `whole`; x may lie there. A collective
/// of the axis.
template <class Axis, Communicator C, class T, class... Ps>
auto all_gather(mesh<C>& m, placed<std::span<T>, Ps...> x, std::span<T> whole, std::span<std::size_t const> cuts) {
  constexpr bool is_shard = detail::is_one_of<shard<Axis>, Ps...>;
  static_assert(sizeof...(Ps) != 0,
                "tenon::comm::all_gather: the value is replicated, so copies of the whole would be put side by side. "
                "Fix: take it as it is.");
  static_assert(!detail::is_one_of<partial<Axis>, Ps...>,
                "tenon::comm::all_gather: the value is partial along the axis, so summands would be put side by side. "
                "Fix: all_reduce or reduce_scatter it first.");
  static_assert(sizeof...(Ps) == 0 || is_shard || detail::is_one_of<partial<Axis>, Ps...>,
                "tenon::comm::all_gather: the value is sharded or partial along other axes than the one that is "
                "gathered. Fix: the axis of its shard<Axis>.");
  if constexpr (is_shard) {
    auto& group = detail::group_of<Axis>(m);
    T* const place = whole.data() + cuts[std::size_t(group.rank())];
    if (place != x.local().data()) std::copy(x.local().begin(), x.local().end(), place);
    std::vector<std::size_t> bytes(cuts.begin(), cuts.end());
    for (auto& at : bytes) at *= sizeof(T);
    group.all_gather(std::as_writable_bytes(whole), bytes);
  }
  return typename detail::replaced<shard<Axis>, detail::placements<>, Ps...>::template of<std::span<T>>(whole);
}

/// sum += more
template <class T, class... Ps, class... Qs>
void add(placed<T, Ps...>& sum, placed<T, Qs...> const& more) {
  constexpr bool same = sizeof...(Ps) == sizeof...(Qs) && (detail::is_one_of<Qs, Ps...> && ...);
  constexpr bool mixes = (Ps::is_partial || ...) != (Qs::is_partial || ...);
  static_assert(!std::same_as<T, mean>,
                "tenon::comm::add: a sum of means weighs micro-batches or ranks, not what was counted. "
                "Fix: add the sums and the counts, and take one mean at the end.");
  static_assert(!mixes,
                "tenon::comm::add: one value is partial and the other is not, so what is not would be counted once for "
                "each rank when the sum is reduced. Fix: all_reduce or reduce_scatter the partial one first.");
  static_assert(same || mixes,
                "tenon::comm::add: the values are placed along different axes, so elements or summands that do not "
                "belong together would be added. Fix: reduce or gather until both have the same placements.");
  if constexpr (same && detail::Summable<T>) detail::add_to(sum.local(), more.local());
}

/// x *= factor, of vectors.
template <class... Ps, class... Qs>
void scale(placed<std::span<float>, Ps...> x, placed<float, Qs...> const& factor) {
  static_assert(sizeof...(Qs) == 0,
                "tenon::comm::scale: the factor is not replicated, so ranks would scale by different numbers. "
                "Fix: reduce or gather what the factor is made of first.");
  for (float& v : x.local()) v *= factor.local();
}

namespace detail {
struct add_squares_t {
  void operator()(std::span<float const> values, exact_sum& sum) const {
    for (float v : values) sum.add(double(v) * double(v));
  }
};
}  // namespace detail

/// The sum of the squares of what this rank has: partial where x is sharded, replicated where x is.
/// @param add_squares (x.local(), sum) adds them
template <class T, class... Ps, class AddSquares = detail::add_squares_t>
auto sum_of_squares(placed<T, Ps...> const& x, AddSquares&& add_squares = {}) {
  static_assert(
      !detail::any_partial<Ps...>,
      "tenon::comm::sum_of_squares: the value is partial, and squares of summands do not add up to the square "
      "of the sum. Fix: all_reduce or reduce_scatter it first.");
  placed<exact_sum, partial<typename Ps::axis>...> sum;
  add_squares(x.local(), sum.local());
  return sum;
}

/// The Euclidean norm of what `squares` was summed over.
template <class... Ps>
double norm(placed<exact_sum, Ps...> const& squares) {
  static_assert(sizeof...(Ps) == 0,
                "tenon::comm::norm: the sum of squares is that of one rank's part, so every rank would have another "
                "norm and clip by it. Fix: all_reduce the sum of squares first.");
  return std::sqrt(squares.local().value());
}

/// A gradient as an update may read it: the sum over all samples, of all parameters or of those that this rank updates.
template <class T, class... Ps>
T const& reduced(placed<T, Ps...> const& gradient) {
  static_assert(!detail::any_partial<Ps...>,
                "tenon::comm::reduced: the gradient is partial, so each rank would update by a summand and their "
                "parameters would drift apart. Fix: all_reduce or reduce_scatter it along that axis first.");
  return gradient.local();
}

}  // namespace tenon::comm
