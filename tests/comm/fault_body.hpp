// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranks that make the same calls, but for one fault of one of them, and what the hang watch must say of it.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <tenon/comm.hpp>

namespace fault_body {

using namespace tenon;

inline constexpr comm::watch_options watching{.late_after = 0.3};

enum class kind { skipped, reordered, wrong_size, wrong_type, sleeping, killed };
inline constexpr char const* kind_names[] = {"skipped", "reordered", "wrong size", "wrong type", "sleeping", "killed"};
enum class call { all_reduce, all_gather, broadcast, sum, barrier, all_to_all, exchange, half_reduce, half_gather };

inline constexpr int steps = 4, layers = 5;

struct fault {
  kind what;
  int rank, ranks;
  int step, layer;  // before or in which call
  std::uint64_t seed;

  std::uint64_t draw(int at_step, int at_layer) const {
    std::uint64_t x = seed * 0x9e3779b97f4a7c15 + std::uint64_t(at_step * 100 + at_layer + 1) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  }
  /// One that threads can have too.
  fault(std::uint64_t s, int n) : fault(s, n, kind::skipped) { what = kind(draw(-1, 0) % 5); }
  fault(std::uint64_t s, int n, kind k) : what(k), ranks(n), seed(s) {
    rank = int(draw(-1, 1) % std::uint64_t(n));
    step = 1 + int(draw(-1, 2) % (steps - 1));
    layer = int(draw(-1, 3) % (layers - 1));
  }
  bool is_at(int at_step, int at_layer) const { return at_step == step && at_layer == layer; }
  // The same on all ranks, and so that the fault is one: a barrier has no size and no type, what two ranks exchange no
  // known type, and what not all ranks wait for may change places with a call of another group.
  call call_at(int at_step, int at_layer) const {
    auto const c = call(draw(at_step, at_layer) % (ranks == 4 ? 9 : 7));
    bool const wrong = is_at(at_step, at_layer) && (what == kind::wrong_size || what == kind::wrong_type);
    bool const moved = what == kind::reordered && (is_at(at_step, at_layer) || is_at(at_step, at_layer - 1));
    bool const harmless = (wrong && c == call::barrier) || (wrong && what == kind::wrong_type && c == call::exchange) ||
                          (moved && (c == call::broadcast || (c == call::exchange && ranks == 4)));
    return harmless ? call::all_gather : c;
  }
};

template <class C>
void make_call(C& world, C& half, fault const& f, int step, int layer, bool wrong) {
  // Kept for good: messages that were under way when a rank failed may still come.
  static thread_local std::deque<std::vector<float>> memory;
  bool const wrong_type = wrong && f.what == kind::wrong_type;
  comm::site const s("step", step), l("layer", layer), e(wrong_type ? "bf16" : "fp32");
  auto const n = std::size_t(world.size()), me = std::size_t(world.rank());
  std::size_t const part =
      64 * (1 + f.draw(step, layer) / 16 % 16) + 8 * std::size_t(layer) + (wrong && f.what == kind::wrong_size ? 8 : 0);
  float* const data = memory.emplace_back(n * n * part).data();
  auto const bytes = [&](std::size_t first, std::size_t count) {
    return std::as_writable_bytes(std::span(data + first * part, count * part));
  };
  auto const reduce = [&](C& c) { comm::all_reduce(c, std::span(data, part)); };
  auto const gather = [&](C& c) {
    auto const all = bytes(0, std::size_t(c.size()));
    c.all_gather(all, comm::even_cuts(all.size(), c.size()));
  };
  auto const sum = [&](C& c) { c.sum(std::span(reinterpret_cast<std::int64_t*>(data), part / 2)); };
  switch (f.call_at(step, layer)) {
    case call::all_reduce: return wrong_type ? sum(world) : reduce(world);
    case call::half_reduce: return wrong_type ? sum(half) : reduce(half);
    case call::sum: return wrong_type ? reduce(world) : sum(world);
    case call::all_gather: return gather(world);
    case call::half_gather: return gather(half);
    case call::broadcast: return world.broadcast(bytes(0, 1), int(f.draw(step, layer) / 256 % n));
    case call::barrier: return world.barrier();
    case call::all_to_all: {
      std::vector<std::span<std::byte const>> sends;
      std::vector<std::span<std::byte>> receives;
      for (std::size_t p = 0; p < n; ++p) sends.push_back(bytes(p, 1)), receives.push_back(bytes(n + p, 1));
      return world.all_to_all(sends, receives);
    }
    case call::exchange: {
      comm::transfer const both[] = {{int((me + 1) % n), true, data, part * sizeof(float)},
                                     {int((me + n - 1) % n), false, data + part, part * sizeof(float)}};
      return world.exchange(both);
    }
  }
}

// All calls, with the fault; at_fault() is called where it is, and sleeps or kills where that is the fault.
template <class C>
void make_calls(C& world, fault const& f, std::function<void()> const& at_fault) {
  C half = world.split(world.rank() % 2, world.rank());
  for (int step = 0; step < steps; ++step)
    for (int layer = 0; layer < layers; ++layer) {
      bool const here = world.rank() == f.rank && f.is_at(step, layer);
      if (here) at_fault();
      if (here && f.what == kind::skipped) continue;
      if (here && f.what == kind::reordered) {
        make_call(world, half, f, step, layer + 1, false);
        make_call(world, half, f, step, layer, false);
        ++layer;
        continue;
      }
      make_call(world, half, f, step, layer, here);
    }
  world.barrier();  // not all of the last calls wait for all ranks
}

/// What is wrong with the report, or nothing: it must name the rank, and a call of it or one that it did not make.
inline std::string judge(fault const& f, std::string const& report) {
  auto const has = [&](std::string const& part) { return report.find(part) != std::string::npos; };
  auto const place = [](int step, int layer) {
    return "step " + std::to_string(step) + ", layer " + std::to_string(layer) + ", ";
  };
  std::string const rank = "rank " + std::to_string(f.rank);
  if (report.rfind("hang watch: ", 0) != 0) return "no report";
  if (!has(rank + " of ") && !has(rank + " expects")) return "another rank";
  bool named = has(place(f.step, f.layer));
  if (f.what == kind::reordered) named = named || has(place(f.step, f.layer + 1));
  if (f.what == kind::sleeping || f.what == kind::killed)
    named = named || has("its last was") || has("its last call was");
  if (!named) return "another place";
  if (f.what == kind::killed && !has(rank + " of " + std::to_string(f.ranks) + " (process ")) return "not as dead";
  bool const differs = f.what == kind::wrong_size || f.what == kind::wrong_type;
  if (differs && !has(" came with ") && !has(" sends ")) return "not as a difference";
  if (f.what == kind::sleeping && !has(" has not come to ")) return "not as late";
  return "";
}
inline std::string describe(fault const& f) {
  return "fault " + std::to_string(f.seed) + ": " + kind_names[int(f.what)] + ", rank " + std::to_string(f.rank) +
         " of " + std::to_string(f.ranks) + ", step " + std::to_string(f.step) + ", layer " + std::to_string(f.layer);
}
inline std::int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
inline double seconds(std::int64_t ticks) {
  return std::chrono::duration<double>(std::chrono::steady_clock::duration(ticks)).count();
}

}  // namespace fault_body
