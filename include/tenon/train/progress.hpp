// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include <unistd.h>

#include <tenon/core/view.hpp>

namespace tenon {

namespace train {

/// "1.2 s", "3:07", "2:05:33"
inline std::string duration_text(double seconds) {
  char text[48];
  if (!(seconds >= 0 && seconds < 1e9)) return "?";
  auto const s = static_cast<long>(seconds + 0.5);
  if (s >= 3600) std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  else if (s >= 60) std::snprintf(text, sizeof text, "%ld:%02ld", s / 60, s % 60);
  else std::snprintf(text, sizeof text, "%ld s", s);
  return text;
}
/// "980", "12.3k", "4.56M"
inline std::string count_text(double value) {
  char text[32];
  if (value >= 1e6) std::snprintf(text, sizeof text, "%.2fM", value * 1e-6);
  else if (value >= 1e4) std::snprintf(text, sizeof text, "%.1fk", value * 1e-3);
  else std::snprintf(text, sizeof text, "%.0f", value);
  return text;
}

}  // namespace train

/// Shows how a run is going. On a terminal one line that is written over, some ten times a second:
///
///     step  120/300 [########............]  loss 2.314  val 2.402  5.1k tokens/s  78 % of peak  0:42 left
///
/// and elsewhere (a file, a pipe, CI) a whole line every `seconds_between_lines`, on evaluations, and at the end.
/// @test tests/train/progress_test.cpp
class progress_line {
 public:
  /// @param peak FLOP/s that count as 100 % (exec/host/peak.hpp); 0: the share is not shown
  progress_line(std::FILE* stream, index_t total_steps, double peak = 0, double seconds_between_lines = 5)
      : progress_line(stream, total_steps, peak, seconds_between_lines, ::isatty(::fileno(stream)) == 1) {}
  /// The same with the kind of stream given.
  progress_line(std::FILE* stream, index_t total_steps, double peak, double seconds_between_lines, bool is_terminal)
      : out(stream), total(total_steps), peak_flops(peak), interval(is_terminal ? 0.1 : seconds_between_lines),
        live(is_terminal) {}
  ~progress_line() { finish(); }
  progress_line(progress_line const&) = delete;
  progress_line& operator=(progress_line const&) = delete;

  /// To be called after each step, with step, loss, tokens_per_second, flops_per_second and (optional) validation_loss.
  template <class Step>
  void update(Step const& s) {
    auto const now = clock::now();
    if (!begun) begin = now, first_step = index_t(s.step), begun = true;
    if (s.validation_loss) validation = *s.validation_loss;
    // Smoothed over some ten steps: one slow step is not a slow run.
    auto const smooth = [&](double& mean, double value) { mean = mean > 0 ? 0.9 * mean + 0.1 * value : value; };
    smooth(speed, s.tokens_per_second);
    smooth(flops, s.flops_per_second);
    bool const due = index_t(s.step) >= total || !shown || s.validation_loss.has_value() ||
                     std::chrono::duration<double>(now - last).count() >= interval;
    if (!due) return;
    last = now;
    shown = true;
    auto const done = index_t(s.step) - first_step;
    double const elapsed = std::chrono::duration<double>(now - begin).count();
    show(text(index_t(s.step), s.loss, done > 0 ? elapsed / double(done) * double(total - index_t(s.step)) : -1));
  }
  /// Ends the line, so that what is printed next begins at the left.
  void finish() {
    if (live && width > 0) std::fputc('\n', out);
    width = 0;
    std::fflush(out);
  }

 private:
  using clock = std::chrono::steady_clock;

  std::string text(index_t step, double loss, double seconds_left) const {
    std::string const of = std::to_string(total);
    std::string number = std::to_string(step);
    number.insert(0, of.size() > number.size() ? of.size() - number.size() : 0, ' ');
    std::string line = "step " + number + "/" + of;
    if (live) {
      constexpr int cells = 20;
      int const full = total > 0 ? int(double(cells) * double(step) / double(total)) : cells;
      line += " [" + std::string(std::size_t(std::min(full, cells)), '#') +
              std::string(std::size_t(cells - std::min(full, cells)), '.') + "]";
    }
    char part[64];
    std::snprintf(part, sizeof part, "  loss %.3f", loss);
    line += part;
    if (validation >= 0) {
      std::snprintf(part, sizeof part, "  val %.3f", validation);
      line += part;
    }
    line += "  " + train::count_text(speed) + " tokens/s";
    if (peak_flops > 0) {
      std::snprintf(part, sizeof part, "  %.0f %% of peak", 100 * flops / peak_flops);
      line += part;
    }
    if (step < total && seconds_left >= 0) line += "  " + train::duration_text(seconds_left) + " left";
    return line;
  }
  void show(std::string line) {
    if (live) {
      std::size_t const length = line.size();
      if (length < width) line.append(width - length, ' ');  // wipe what a longer line has left
      width = length;
      std::fprintf(out, "\r%s", line.c_str());
    } else {
      std::fprintf(out, "%s\n", line.c_str());
    }
    std::fflush(out);
  }

  std::FILE* out;
  index_t total;
  double peak_flops, interval;
  bool live, begun = false, shown = false;
  clock::time_point begin{}, last{};
  index_t first_step = 0;
  double speed = 0, flops = 0, validation = -1;
  std::size_t width = 0;
};

}  // namespace tenon
