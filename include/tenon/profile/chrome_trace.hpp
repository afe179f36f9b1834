// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdio>
#include <filesystem>
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
inline void append_complete_event(std::string& out, event const& e, int rank) {
  std::int64_t const ns = e.end_ns - e.begin_ns;
  out += "{\"ph\":\"X\",\"name\":";
  append_json_string(out, e.name);
  out += ",\"cat\":\"tenon\",\"pid\":" + std::to_string(rank) + ",\"tid\":0,\"ts\":";
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

}  // namespace detail

/// Writes all events as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open: one process per rank, nested
/// ranges on one track, with the rates of each.
/// @error file_error(io_failed) when the file cannot be written
/// @source Trace Event Format, Google 2016   @test tests/profile/chrome_trace_test.cpp
inline void write_chrome_trace(std::filesystem::path const& file, recorder const& r, int rank = 0) {
  auto const failed = [&]() -> file_error {
    file_error e(file.string(),
                 "the trace cannot be written. Fix: check that its folder exists, may be written and has space.");
    e.code = errc::io_failed;
    return e;
  };
  std::FILE* const f = std::fopen(file.c_str(), "wb");
  if (!f) throw failed();
  // Outer ranges first: viewers nest equal begin times in the order of the file.
  std::vector<event> ordered(r.events);
  std::stable_sort(ordered.begin(), ordered.end(), [](event const& a, event const& b) {
    return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.depth < b.depth;
  });
  std::string text = "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"dropped_events\":" + std::to_string(r.dropped) +
                     "},\"traceEvents\":[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":" + std::to_string(rank) +
                     ",\"args\":{\"name\":\"tenon rank " + std::to_string(rank) + "\"}}";
  bool good = true;
  for (auto const& e : ordered) {
    text += ",\n";
    detail::append_complete_event(text, e, rank);
    if (text.size() > 1 << 20) {
      good = good && std::fwrite(text.data(), 1, text.size(), f) == text.size();
      text.clear();
    }
  }
  text += "\n]}\n";
  good = good && std::fwrite(text.data(), 1, text.size(), f) == text.size();
  good = std::fclose(f) == 0 && good;
  if (!good) throw failed();
}

}  // namespace tenon::profile
