// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What every communicator must do, run by each rank of one. Throws at what is wrong.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <tenon/comm.hpp>

namespace communicator_body {

using namespace tenon;
using comm::operation;

inline void require(bool holds, std::string const& what) {
  if (!holds) throw std::runtime_error("does not hold: " + what);
}

// Values of several magnitudes, so that the order of a sum shows in its bits.
inline float value(int rank, std::size_t i) {
  auto const h = std::uint32_t((std::size_t(rank) + 1) * 2654435761u ^ i * 40503u * 69069u);
  return float(std::int32_t(h)) * (h % 3 == 0 ? 1e-9f : h % 3 == 1 ? 1e-7f : 1e-3f);
}
inline std::byte byte_of(int rank, std::size_t i) {
  return std::byte((std::size_t(rank) * 37 + i * 11 + i / 251) & 255u);
}
inline std::vector<std::byte> bytes_of(int rank, std::size_t n) {
  std::vector<std::byte> bytes(n);
  for (std::size_t i = 0; i < n; ++i) bytes[i] = byte_of(rank, i);
  return bytes;
}
inline float tree_sum(std::span<int const> ranks, std::size_t i) {
  auto const add = [](float& a, float b) { a += b; };
  tree<float> sum;
  for (int r : ranks) sum.push(value(r, i), add);
  return sum.finish(add);
}
inline bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// Of `group`, whose ranks are `ranks` of the world.
template <class C>
void check_sums(C& group, std::vector<int> const& ranks) {
  int const me = ranks[std::size_t(group.rank())];
  std::string const where = " on rank " + std::to_string(group.rank()) + " of " + std::to_string(group.size());
  for (std::size_t n :
       {std::size_t(0), std::size_t(1), std::size_t(15), std::size_t(17), std::size_t(1000), std::size_t(600001)}) {
    std::vector<float> mine(n);
    for (std::size_t i = 0; i < n; ++i) mine[i] = value(me, i);
    auto const original = mine;
    std::size_t const step = n > 10000 ? 97 : 1;
    comm::all_reduce(group, std::span<float>(mine));
    for (std::size_t i = 0; i < n; i += step)
      require(same_bits(mine[i], tree_sum(ranks, i)), "all_reduce of " + std::to_string(n) + where);

    auto const cuts = comm::even_cuts(n, group.size(), 3);
    auto const begin = cuts[std::size_t(group.rank())], end = cuts[std::size_t(group.rank()) + 1];
    std::vector<float> shard(end - begin);
    comm::reduce_scatter(group, original.data(), shard.data(), cuts);
    for (std::size_t i = begin; i < end; i += step)
      require(same_bits(shard[i - begin], tree_sum(ranks, i)), "reduce_scatter of " + std::to_string(n) + where);
  }
  exact_sum exact;
  exact.add(1e300 / (me + 1));
  exact.add(1e-300 * me);
  comm::all_reduce(group, exact);
  exact_sum expected;
  for (int r : ranks) expected.add(1e300 / (r + 1)), expected.add(1e-300 * r);
  require(exact.value() == expected.value(), "exact all_reduce" + where);
}

template <class C>
void check_bytes(C& c) {
  int const n = c.size(), me = c.rank();
  std::size_t const ranks = std::size_t(n);
  for (std::size_t size : {std::size_t(0), std::size_t(1), std::size_t(333), std::size_t(1000003)}) {
    for (int root = 0; root < n; ++root) {
      auto bytes = bytes_of(me, size);
      c.broadcast(bytes, root);
      require(bytes == bytes_of(root, size), "broadcast of " + std::to_string(size));
    }
    // Uneven parts, and rank 1 has none.
    std::vector<std::size_t> cuts{0};
    for (int r = 0; r < n; ++r) cuts.push_back(cuts.back() + (r == 1 ? 0 : size / (std::size_t(r) + 1)));
    std::vector<std::byte> whole(cuts.back()), all(cuts.back());
    for (int r = 0; r < n; ++r) {
      auto const part = bytes_of(r, cuts[std::size_t(r) + 1] - cuts[std::size_t(r)]);
      std::copy(part.begin(), part.end(), all.begin() + std::ptrdiff_t(cuts[std::size_t(r)]));
      if (r == me) std::copy(part.begin(), part.end(), whole.begin() + std::ptrdiff_t(cuts[std::size_t(r)]));
    }
    c.all_gather(whole, cuts);
    require(whole == all, "all_gather of " + std::to_string(size));

    auto const amount = [&](int from, int to) { return size * std::size_t((from * 3 + to) % 4) / 4; };
    std::vector<std::vector<std::byte>> out(ranks), in(ranks);
    std::vector<std::span<std::byte const>> sends;
    std::vector<std::span<std::byte>> receives;
    for (int p = 0; p < n; ++p) {
      out[std::size_t(p)] = bytes_of(me * 16 + p, amount(me, p));
      in[std::size_t(p)].resize(amount(p, me));
      sends.emplace_back(out[std::size_t(p)]);
      receives.emplace_back(in[std::size_t(p)]);
    }
    c.all_to_all(sends, receives);
    for (int p = 0; p < n; ++p)
      require(in[std::size_t(p)] == bytes_of(p * 16 + me, amount(p, me)), "all_to_all of " + std::to_string(size));

    if (n > 1) {  // three messages to the next and one back, posted together and in the wrong order
      int const next = (me + 1) % n, previous = (me + n - 1) % n;
      auto a = bytes_of(me, size), b = bytes_of(me + 50, size / 2), back = bytes_of(me + 90, size);
      std::vector<std::byte> a_in(size), b_in(size / 2), back_in(size);
      comm::transfer const transfers[] = {
          {previous, false, a_in.data(), a_in.size()},   {next, true, a.data(), a.size()},
          {next, false, back_in.data(), back_in.size()}, {next, true, b.data(), b.size()},
          {previous, false, b_in.data(), b_in.size()},   {previous, true, back.data(), back.size()}};
      if (n > 2) {
        c.exchange(transfers);
        require(a_in == bytes_of(previous, size) && b_in == bytes_of(previous + 50, size / 2) &&
                    back_in == bytes_of(next + 90, size),
                "exchange of " + std::to_string(size));
      }
      // Only two of the ranks, one after the other's calls.
      for (int turn = 0; turn < 3 && me < 2; ++turn) {
        comm::transfer const one{1 - me, me == turn % 2, me == turn % 2 ? a.data() : a_in.data(), size};
        c.exchange(std::span(&one, 1));
        if (!one.sends) require(a_in == bytes_of(1 - me, size), "exchange between two");
      }
    }
  }
  c.exchange({});
  std::vector<std::int64_t> integers(1001);
  for (std::size_t i = 0; i < integers.size(); ++i) integers[i] = std::int64_t(i) - (std::int64_t(1) << 55) * (me + 1);
  c.sum(integers);
  for (std::size_t i = 0; i < integers.size(); ++i)
    require(integers[i] == std::int64_t(i) * n - (std::int64_t(1) << 55) * n * (n + 1) / 2, "sum");
}

// Ranks offer different numbers of vectors, one of them none.
template <class C>
void check_visit(C& c) {
  int const n = c.size(), me = c.rank();
  for (std::size_t size : {std::size_t(0), std::size_t(5), std::size_t(900001)}) {
    std::vector<int> counts;
    for (int r = 0; r < n; ++r) counts.push_back(n > 1 && r == n - 1 ? 0 : r % 3 + 1);
    std::vector<std::vector<float>> vectors(static_cast<std::size_t>(counts[std::size_t(me)]),
                                            std::vector<float>(size));
    std::vector<float const*> mine;
    for (std::size_t v = 0; v < vectors.size(); ++v) {
      for (std::size_t i = 0; i < size; ++i) vectors[v][i] = value(me * 4 + int(v), i);
      mine.push_back(vectors[v].data());
    }
    auto const cuts = comm::even_cuts(size, n);
    std::size_t at = cuts[std::size_t(me)];
    c.visit_shards(mine, counts, cuts, [&](std::size_t begin, std::size_t end, std::span<float const* const> shown) {
      require(begin == at && end > begin, "visit_shards goes on where it was");
      at = end;
      std::size_t i = 0;
      for (int r = 0; r < n; ++r)
        for (int v = 0; v < counts[std::size_t(r)]; ++v, ++i)
          for (std::size_t j = begin; j < end; j += 1 + (end - begin) / 1000)
            require(same_bits(shown[i][j - begin], value(r * 4 + v, j)), "visit_shards shows the vectors");
      require(i == shown.size(), "visit_shards shows all vectors");
    });
    require(at == cuts[std::size_t(me) + 1], "visit_shards shows all of the shard");
  }
}

template <class C>
void check_traffic(C& c) {
  std::size_t const n = std::size_t(c.size()), floats = 1680 * 16;  // even for 1 to 8 ranks
  auto const all_reduce_bytes = [&] {
    return c.traffic().of(operation::reduce_scatter).bytes + c.traffic().of(operation::all_gather).bytes;
  };
  auto const before = c.traffic();
  auto const bytes = all_reduce_bytes();
  std::vector<float> data(floats, 1);
  comm::all_reduce(c, std::span<float>(data));
  require(all_reduce_bytes() - bytes == 2 * (n - 1) * floats * sizeof(float) / n, "all-reduce sends 2(N-1)/N");
  require(c.traffic().of(operation::all_gather).calls - before.of(operation::all_gather).calls == (n > 1), "one call");
  std::vector<std::byte> some(100 * n);
  c.broadcast(std::span(some).first(100), 0);
  require(c.traffic().of(operation::broadcast).bytes - before.of(operation::broadcast).bytes ==
              (c.rank() == 0 ? 100 * (n - 1) : 0),
          "broadcast sends N-1 times");
  auto half = c.split(c.rank() % 2, 0);
  std::uint64_t const total = c.traffic().bytes();
  half.all_gather(std::span(some).first(10 * std::size_t(half.size())),
                  comm::even_cuts(10 * std::size_t(half.size()), half.size()));
  require(c.traffic().bytes() - total == 10 * std::size_t(half.size() - 1), "groups count for their world");
}

template <class C>
void check_communicator(C& world) {
  int const n = world.size(), me = world.rank();
  require(me >= 0 && me < n, "rank in [0, size)");
  comm::wait_for_all(world, 60);
  world.barrier();
  check_bytes(world);
  check_visit(world);
  std::vector<int> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  check_sums(world, all);
  check_traffic(world);
  comm::check_same(world, "name", std::string(1000, 'x'));
  {  // thirds, the last rank first
    auto group = world.split(me % 3, n - me);
    std::vector<int> ranks;
    for (int r = n - 1; r >= 0; --r)
      if (r % 3 == me % 3) ranks.push_back(r);
    require(group.size() == int(ranks.size()) && ranks[std::size_t(group.rank())] == me, "split orders by key");
    check_sums(group, ranks);
    check_bytes(group);
    auto moved = std::move(group);
    auto alone = moved.split(moved.rank(), 0);
    require(alone.size() == 1 && alone.rank() == 0, "a group of one");
    check_bytes(alone);
    moved.barrier();
  }
  world.barrier();
}

}  // namespace communicator_body
