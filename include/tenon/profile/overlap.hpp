// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <tenon/profile/recorder.hpp>

namespace tenon::profile {

/// Time in communication, and how much of it passes while operations compute.
struct overlap_time {
  double seconds = 0, hidden_seconds = 0;
  double hidden_share() const { return seconds > 0 ? hidden_seconds / seconds : 0; }
};

/// How much of what `communication` recorded is hidden behind the operations of `computation`. Ranges that do no
/// operations and move no bytes (phases, waiting, barriers) do not count.   @test tests/profile/overlap_test.cpp
inline overlap_time overlap(recorder const& computation, recorder const& communication) {
  using interval = std::pair<std::int64_t, std::int64_t>;
  auto const joined = [](recorder const& r) {
    std::vector<interval> all, apart;
    for (auto const& e : r.events)
      if (e.done.flops > 0 || e.done.bytes > 0) all.emplace_back(e.begin_ns, e.end_ns);
    std::sort(all.begin(), all.end());
    for (auto const& i : all)
      if (apart.empty() || apart.back().second < i.first) apart.push_back(i);
      else apart.back().second = std::max(apart.back().second, i.second);
    return apart;
  };
  auto const busy = joined(computation);
  auto next = busy.begin();
  overlap_time t;
  for (auto const& [begin, end] : joined(communication)) {
    t.seconds += double(end - begin) * 1e-9;
    while (next != busy.end() && next->second <= begin) ++next;
    for (auto i = next; i != busy.end() && i->first < end; ++i)
      t.hidden_seconds += double(std::min(end, i->second) - std::max(begin, i->first)) * 1e-9;
  }
  return t;
}

}  // namespace tenon::profile
