// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/profile/overlap.hpp>
#include <tenon/profile/recorder.hpp>

namespace tenon::profile {

/// What the machine can do at most, measured (exec/host/peak.hpp): FLOP/s and bytes/s. Zero: not known.
struct peaks {
  double flops_per_second = 0;
  double bytes_per_second = 0;
};

/// All events of one name. `seconds` is the time in them alone, without the ranges within.
struct summary_row {
  std::string_view name;
  std::size_t calls = 0;
  double seconds = 0;
  work done{};
  /// Share of the most that these counts could reach: min(peak FLOP/s, bandwidth x FLOP per byte); for what does no
  /// arithmetic, bytes/s over bandwidth. 0 when not known. Above 1 means that the data came from a cache.
  double share_of_roofline(peaks const& most) const {
    if (seconds <= 0) return 0;
    double const by_flops = most.flops_per_second > 0 ? done.flops / most.flops_per_second : 0;
    double const by_bytes = most.bytes_per_second > 0 ? done.bytes / most.bytes_per_second : 0;
    return std::max(by_flops, by_bytes) / seconds;
  }
};

/// One row per name, the longest time first. Times of all rows add up to the time in any range at all.
/// @test tests/profile/table_test.cpp
inline std::vector<summary_row> summarize(recorder const& r) {
  std::vector<summary_row> rows;
  std::vector<double> within;  // time of finished ranges at each depth, not yet taken off the one around them
  for (auto const& e : r.events) {
    double const seconds = double(e.end_ns - e.begin_ns) * 1e-9;
    auto const depth = std::size_t(e.depth);
    if (within.size() < depth + 2) within.resize(depth + 2, 0.0);
    double const alone = seconds - within[depth + 1];
    within[depth + 1] = 0;
    within[depth] += seconds;
    auto row = std::find_if(rows.begin(), rows.end(), [&](summary_row const& s) { return s.name == e.name; });
    if (row == rows.end()) row = rows.insert(rows.end(), summary_row{e.name});
    ++row->calls;
    row->seconds += alone > 0 ? alone : 0;
    row->done.flops += e.done.flops;
    row->done.bytes += e.done.bytes;
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](summary_row const& a, summary_row const& b) { return a.seconds > b.seconds; });
  return rows;
}

/// A table for people: calls, time, share of the time, GFLOP/s, GB/s and share of the roofline of each operation.
inline std::string table(recorder const& r, peaks const& most = {}) {
  auto const rows = summarize(r);
  double total = 0;
  work all{};
  std::size_t calls = 0, width = 9;
  for (auto const& row : rows) {
    total += row.seconds;
    all.flops += row.done.flops;
    all.bytes += row.done.bytes;
    calls += row.calls;
    width = std::max(width, row.name.size());
  }
  std::string out;
  char line[256];
  auto const number = [](double value, char const* format) {
    char text[32];
    if (value > 0) std::snprintf(text, sizeof text, format, value);
    else std::snprintf(text, sizeof text, "-");
    return std::string(text);
  };
  auto const print = [&](summary_row const& row) {
    double const s = row.seconds > 0 ? row.seconds : 1e-30;
    std::snprintf(line, sizeof line, "%-*.*s %9zu %11.1f %7.1f%% %9s %8s %9s\n", int(std::min<std::size_t>(width, 60)),
                  60, std::string(row.name).c_str(), row.calls, row.seconds * 1e3,
                  total > 0 ? 100 * row.seconds / total : 0.0, number(row.done.flops / s * 1e-9, "%.1f").c_str(),
                  number(row.done.bytes / s * 1e-9, "%.1f").c_str(),
                  number(100 * row.share_of_roofline(most), "%.0f%%").c_str());
    out += line;
  };
  std::snprintf(line, sizeof line, "%-*s %9s %11s %8s %9s %8s %9s\n", int(std::min<std::size_t>(width, 60)),
                "operation", "calls", "time, ms", "share", "GFLOP/s", "GB/s", "roofline");
  out += line;
  std::string const rule(std::min<std::size_t>(width, 60) + 60, '-');
  out += rule + "\n";
  for (auto const& row : rows) print(row);
  out += rule + "\n";
  print({"all", calls, total, all});
  if (most.flops_per_second > 0 && most.bytes_per_second > 0) {
    std::snprintf(line, sizeof line, "roofline: %.0f GFLOP/s, %.1f GB/s; above 100%% the data came from a cache\n",
                  most.flops_per_second * 1e-9, most.bytes_per_second * 1e-9);
    out += line;
  }
  if (r.dropped) out += std::to_string(r.dropped) + " events came after the recorder was full and are not counted\n";
  return out;
}

/// The table of a rank: what it computes, what it communicates, and how much of that is hidden behind computation.
inline std::string table(rank_recorder const& r, peaks const& most = {}) {
  std::string out = table(r.computation, most);
  auto const add = [&](char const* title, recorder const& communication) {
    if (communication.events.empty()) return;
    overlap_time const t = overlap(r.computation, communication);
    char line[128];
    std::snprintf(line, sizeof line, "%.1f of %.1f ms (%.0f%%) while operations compute\n", t.hidden_seconds * 1e3,
                  t.seconds * 1e3, 100 * t.hidden_share());
    out += "\n" + std::string(title) + "\n" + table(communication) + line;
  };
  add("communication, waited for", r.communication);
  for (auto const& b : r.background) add("communication beside it", b);
  return out;
}

}  // namespace tenon::profile
