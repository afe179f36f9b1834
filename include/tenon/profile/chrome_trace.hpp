// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/json_text.hpp>
#include <tenon/profile/recorder.hpp>

namespace tenon::profile {
namespace detail {

/// Nanoseconds as microseconds with three decimals, the unit of trace files.
inline void append_microseconds(std::string& out, std::int64_t ns) {
  char text[32];
  std::snprintf(text, sizeof text, "%lld.%03d", static_cast<long long>(ns / 1000), int(ns % 1000));
  out += text;
}
inline void append_complete_event(std::string& out, event const& e, int rank, int thread) {
  std::int64_t const ns = e.end_ns - e.begin_ns;
  out += "{\"ph\":\"X\",\"name\":";
  append_json_string(out, e.name);
  out += ",\"cat\":\"tenon\",\"pid\":" + std::to_string(rank) + ",\"tid\":" + std::to_string(thread) + ",\"ts\":";
  append_microseconds(out, e.begin_ns);
  out += ",\"dur\":";
  append_microseconds(out, ns);
  if (e.done.flops > 0 || e.done.bytes > 0) {
    out += ",\"args\":{";
    auto const rate = [&](char const* name, double value, bool comma) {
      if (comma) out += ',';
      append_json_string(out, name);
      out += ':';
      append_json_number(out, value);
    };
    rate("GFLOP", e.done.flops * 1e-9, false);
    if (ns > 0) rate("GFLOP/s", e.done.flops / double(ns), true);
    rate("MB", e.done.bytes * 1e-6, true);
    if (ns > 0) rate("GB/s", e.done.bytes / double(ns), true);
    out += '}';
  }
  out += '}';
}

inline void append_name(std::string& out, char const* kind, int rank, int thread, std::string const& name) {
  out += "{\"ph\":\"M\",\"name\":\"" + std::string(kind) + "\",\"pid\":" + std::to_string(rank) +
         ",\"tid\":" + std::to_string(thread) + ",\"args\":{\"name\":";
  append_json_string(out, name);
  out += "}}";
}

}  // namespace detail

/// Writes all events as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open: one process per rank, one
/// track per recorder, on which ranges nest, with the rates of each.
/// @error file_error(io_failed) when the file cannot be written
/// @source Trace Event Format, Google 2016   @test tests/profile/chrome_trace_test.cpp
inline void write_chrome_trace(std::filesystem::path const& file, std::span<rank_recorder const* const> ranks) {
  auto const failed = [&]() -> file_error {
    file_error e(file.string(),
                 "the trace cannot be written. Fix: check that its folder exists, may be written and has space.");
    e.code = errc::io_failed;
    return e;
  };
  std::FILE* const f = std::fopen(file.c_str(), "wb");
  if (!f) throw failed();
  std::size_t dropped = 0;
  bool good = true;
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  auto const add_track = [&](recorder const& r, int rank, int thread, std::string const& name) {
    dropped += r.dropped;
    if (r.events.empty()) return;
    text += ",\n";
    detail::append_name(text, "thread_name", rank, thread, name);
    // Outer ranges first: viewers nest equal begin times in the order of the file.
    std::vector<event> ordered(r.events);
    std::stable_sort(ordered.begin(), ordered.end(), [](event const& a, event const& b) {
      return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.depth < b.depth;
    });
    for (auto const& e : ordered) {
      text += ",\n";
      detail::append_complete_event(text, e, rank, thread);
      if (text.size() > 1 << 20) {
        good = good && std::fwrite(text.data(), 1, text.size(), f) == text.size();
        text.clear();
      }
    }
  };
  for (auto const* r : ranks) {
    text += r == ranks.front() ? "\n" : ",\n";
    detail::append_name(text, "process_name", r->rank, 0, "tenon rank " + std::to_string(r->rank));
    add_track(r->computation, r->rank, 0, "computation");
    add_track(r->communication, r->rank, 1, "communication, waited for");
    for (std::size_t i = 0; i < r->background.size(); ++i)
      add_track(r->background[i], r->rank, int(i) + 2, "communication beside it");
  }
  text += "\n],\"otherData\":{\"dropped_events\":" + std::to_string(dropped) + "}}\n";
  good = good && std::fwrite(text.data(), 1, text.size(), f) == text.size();
  good = std::fclose(f) == 0 && good;
  if (!good) throw failed();
}

}  // namespace tenon::profile
