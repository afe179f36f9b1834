// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a group of ranks can do together: the concept that `self`, `threads`, `mpi` and `nccl` model.
///
/// A communicator moves bytes. Sums of floating point numbers have a written order (docs/decisions/0001), which no
/// library's all-reduce keeps; so a communicator only shows each rank its shard of everybody's vectors (`visit_shards`),
/// and comm/reduce.hpp adds them by the fixed tree: the bytes of a ring, the same bits for every number of ranks.
#include <array>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <tenon/profile/recorder.hpp>

namespace tenon::comm {

/// One direction of a point-to-point exchange with `peer`.
struct transfer {
  int peer = 0;
  bool sends = false;
  void* data = nullptr;  ///< read when it sends, else written
  std::size_t bytes = 0;
};

/// What is counted: see `counters`.
enum class operation { reduce_scatter, all_gather, all_to_all, broadcast, sum, exchange, barrier, split };
inline constexpr std::size_t operations = 8;
inline constexpr std::array<char const*, operations> operation_names{
    "reduce_scatter", "all_gather", "all_to_all", "broadcast", "sum", "exchange", "barrier", "split"};

/// How often this rank called an operation and how many bytes it sent to other ranks by it. An all-reduce is a
/// reduce-scatter and an all-gather.
struct traffic {
  std::uint64_t calls = 0, bytes = 0;
};
/// The traffic of one rank, over its world and all groups split from it.
struct counters {
  std::array<traffic, operations> by_operation{};
  traffic& of(operation o) { return by_operation[std::size_t(o)]; }
  traffic const& of(operation o) const { return by_operation[std::size_t(o)]; }
  /// From any thread of the rank: a `stream` communicates beside it.
  void add(operation o, std::size_t sent) {
    std::atomic_ref(of(o).calls).fetch_add(1, std::memory_order_relaxed);
    std::atomic_ref(of(o).bytes).fetch_add(sent, std::memory_order_relaxed);
  }
  std::uint64_t bytes() const {
    std::uint64_t n = 0;
    for (auto const& t : by_operation) n += t.bytes;
    return n;
  }
};

namespace detail {
// Counts an operation, and records it for as long as the result lives.
inline profile::range begin_operation(counters& all, profile::recorder* profiler, operation o, std::size_t sent) {
  all.add(o, sent);
  return {profiler, operation_names[std::size_t(o)], {0, double(sent)}};
}

// Bytes that a rank sends to others by an operation, the same for all communicators: what a ring or a direct exchange
// puts on the wire.
inline std::size_t sent_by_broadcast(std::size_t bytes, bool root, int ranks) {
  return root ? bytes * std::size_t(ranks - 1) : 0;
}
inline std::size_t sent_by_all_gather(std::span<std::size_t const> cuts, int rank) {
  return (cuts[std::size_t(rank) + 1] - cuts[std::size_t(rank)]) * (cuts.size() - 2);
}
inline std::size_t sent_by_all_to_all(std::span<std::span<std::byte const> const> sends, int rank) {
  std::size_t sum = 0;
  for (std::size_t p = 0; p < sends.size(); ++p) sum += p == std::size_t(rank) ? 0 : sends[p].size();
  return sum;
}
inline std::size_t sent_by_exchange(std::span<transfer const> transfers) {
  std::size_t sum = 0;
  for (auto const& t : transfers) sum += t.sends ? t.bytes : 0;
  return sum;
}
inline std::size_t sent_by_sum(std::size_t bytes, int ranks) {
  return 2 * bytes * std::size_t(ranks - 1) / std::size_t(ranks);
}
inline std::size_t sent_by_visit(std::size_t vectors, std::span<std::size_t const> cuts, int rank) {
  std::size_t const own = cuts[std::size_t(rank) + 1] - cuts[std::size_t(rank)];
  return vectors * sizeof(float) * (cuts.back() - cuts.front() - own);
}

struct shard_visitor {
  void operator()(std::size_t, std::size_t, std::span<float const* const>) const;
};
}  // namespace detail

/// A group of ranks. Every rank of it calls the same functions in the same order, but for `exchange`, which only those
/// call that have something to send or receive; one thread of a rank at a time.
///
///  - `ranks_here()`: how many ranks share the processors that this one may use.
///  - `split(color, key)`: those with the same color form a group, ordered by (key, rank).
///  - `broadcast(bytes, root)`, `barrier()`.
///  - `all_gather(whole, cuts)`: rank r has bytes [cuts[r], cuts[r + 1]) of `whole`; afterwards each has all.
///  - `all_to_all(sends, receives)`: `sends[p]` goes to rank p, `receives[p]` comes from it; both know the sizes. A
///    rank's own part is copied too, unless it is the same memory.
///  - `exchange(transfers)`: sends and receives with other ranks, posted together; between two ranks they match in order.
///  - `sum(integers)`: adds integers over ranks, which has no order.
///  - `visit_shards(mine, vectors_of, cuts, consume)`: rank p offers `vectors_of[p]` vectors of floats, each of
///    cuts.back() elements; rank r is shown elements [cuts[r], cuts[r + 1]) of all of them, stretch by stretch:
///    consume(begin, end, vectors) with vectors[i] pointing at element `begin` of vector i, in the order of ranks. What
///    is shown must not be written before `visit_shards` returns; `consume` may write elements [begin, end) elsewhere,
///    and into this rank's own vectors.
///  - `profiler`: where the operations of this handle are recorded, with the bytes sent; null at first.
///  - `abandon()`, from any thread of a rank that is failing: what its other threads wait for ends with an error.
/// @error error(comm_failed) when a peer is gone
template <class C>
concept Communicator = std::movable<C> &&
    requires(C& c, C const& k, int n, std::span<std::byte> bytes, std::span<std::size_t const> cuts,
             std::span<std::span<std::byte const> const> sends, std::span<std::span<std::byte> const> receives,
             std::span<transfer const> transfers, std::span<std::int64_t> integers,
             std::span<float const* const> vectors, std::span<int const> counts, detail::shard_visitor visitor) {
  { k.rank() } -> std::same_as<int>;
  { k.size() } -> std::same_as<int>;
  { k.ranks_here() } -> std::same_as<int>;
  { c.split(n, n) } -> std::same_as<C>;
  c.barrier();
  c.broadcast(bytes, n);
  c.all_gather(bytes, cuts);
  c.all_to_all(sends, receives);
  c.exchange(transfers);
  c.sum(integers);
  c.visit_shards(vectors, counts, cuts, visitor);
  c.abandon();
  { c.traffic() } -> std::same_as<counters&>;
  { c.profiler } -> std::same_as<profile::recorder*&>;
};

}  // namespace tenon::comm
