// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A run's loss as a picture: one self-contained SVG file that suits light and dark viewers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/io/atomic_file.hpp>
#include <tenon/train/metrics.hpp>

namespace tenon {
namespace train {

/// A point of a curve: step and loss.
struct curve_point {
  double x, y;
};

/// The distance of round ticks (1, 2 or 5 times a power of ten) that gives about `count` of them.
inline double tick_distance(double span, int count) {
  double const raw = span / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  double const lead = raw / power;
  return power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}
/// The mean over a window centred on each point, so never late. It shrinks towards the beginning, where the loss falls
/// fast; at the end it keeps its left half, so that the last value is a mean too.
inline std::vector<curve_point> smoothed(std::vector<curve_point> const& points) {
  auto const n = points.size();
  std::vector<double> sum(n + 1, 0.0);
  for (std::size_t i = 0; i < n; ++i) sum[i + 1] = sum[i] + points[i].y;
  std::vector<curve_point> out(n);
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t const half = std::min(i, std::max<std::size_t>(n / 30, 4)), end = std::min(i + half + 1, n);
    out[i] = {points[i].x, (sum[end] - sum[i - half]) / double(end - (i - half))};
  }
  return out;
}
/// At most `2 * columns` points: the lowest and the highest of each column, so that no spike is lost.
inline std::vector<curve_point> thinned(std::vector<curve_point> const& points, std::size_t columns) {
  if (points.size() <= 2 * columns) return points;
  std::vector<curve_point> out;
  for (std::size_t c = 0; c < columns; ++c) {
    auto const first = points.begin() + std::ptrdiff_t(c * points.size() / columns);
    auto const last = points.begin() + std::ptrdiff_t((c + 1) * points.size() / columns);
    auto [low, high] = std::minmax_element(first, last, [](curve_point a, curve_point b) { return a.y < b.y; });
    if (high < low) std::swap(low, high);
    out.push_back(*low);
    if (low != high) out.push_back(*high);
  }
  return out;
}

/// Draws the chart; all lengths are in pixels of an 860 x 480 picture.
class loss_chart {
 public:
  loss_chart(std::vector<step_metrics> const& all, std::string_view title) : heading(title) {
    for (auto const& m : all) {
      if (std::isfinite(m.loss)) raw.push_back({double(m.step), m.loss});
      if (m.validation_loss && std::isfinite(*m.validation_loss))
        validation.push_back({double(m.step), *m.validation_loss});
    }
    smooth = smoothed(raw);
    choose_ranges();
  }
  std::string svg() {
    out.clear();
    head();
    grid();
    if (raw.size() > 1) line("raw", thinned(raw, 700));
    if (!smooth.empty()) line("training", thinned(smooth, 400));
    if (smooth.size() == 1)  // a point: the round end of a line without length
      out +=
          "<path class=\"training\" d=\"M" + number(x_of(smooth[0].x)) + " " + number(y_of(smooth[0].y)) + "h.01\"/>\n";
    points();
    legend();
    if (raw.empty()) text("label middle", (left + right) / 2, (top + bottom) / 2, "no steps yet");
    return out += "</g>\n</svg>\n";
  }

 private:
  static constexpr double width = 860, height = 480, left = 76, right = 796, top = 76, bottom = 416;

  void choose_ranges() {
    double low = 1e300, high = -1e300, last = 1;
    for (auto const* points : {&smooth, &validation, &raw})
      for (auto const& p : *points) low = std::min(low, p.y), high = std::max(high, p.y), last = std::max(last, p.x);
    if (low > high) low = 0, high = 1;
    if (high - low < 1e-6) low -= 0.5, high += 0.5;
    y_tick = tick_distance(high - low, 6);
    y_low = std::floor(low / y_tick) * y_tick;
    y_high = std::ceil(high / y_tick) * y_tick;
    x_tick = std::max(tick_distance(last, 8), 1.0);
    x_high = last;
  }
  double x_of(double x) const { return left + (right - left) * x / x_high; }
  double y_of(double y) const { return bottom - (bottom - top) * (y - y_low) / (y_high - y_low); }

  /// Shortest text of a coordinate, in tenths of a pixel.
  static std::string number(double v) {
    std::string s;
    append_json_number(s, std::round(v * 10) / 10 + 0.0);
    return s;
  }
  static std::string label(double v, double tick, bool thousands) {
    char text[32];
    int const decimals = tick >= 1 ? 0 : int(std::ceil(-std::log10(tick) - 1e-9));
    if (thousands && v > 0) std::snprintf(text, sizeof text, "%.0fk", v / 1000);
    else std::snprintf(text, sizeof text, "%.*f", decimals, v);
    return text;
  }
  static std::string escaped(std::string_view s) {
    std::string r;
    for (char c : s) c == '<' ? r += "&lt;" : c == '&' ? r += "&amp;" : c == '>' ? r += "&gt;" : r += c;
    return r;
  }
  void text(char const* kind, double x, double y, std::string_view s) {
    out += "<text class=\"" + std::string(kind) + "\" x=\"" + number(x) + "\" y=\"" + number(y) + "\">" + escaped(s) +
           "</text>\n";
  }
  void head() {
    // The plain values come first for viewers that know no media queries.
    out +=
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 480\" width=\"860\" height=\"480\" role=\"img\">\n"
        "<title>" +
        escaped(heading) +
        "</title>\n"
        "<style>\n"
        ".card{fill:#ffffff;stroke:#d8dee4}.grid{stroke:#eaeef2}.axis{stroke:#8c959f}\n"
        ".heading{fill:#1f2328;font-size:19px;font-weight:600}.note,.tick{fill:#59636e;font-size:13px}\n"
        ".label{fill:#1f2328;font-size:13px}.middle{text-anchor:middle}.end{text-anchor:end}\n"
        ".raw{fill:none;stroke:#54aeff;stroke-width:1;stroke-opacity:.45}\n"
        ".training{fill:none;stroke:#0969da;stroke-width:2.25;stroke-linejoin:round;stroke-linecap:round}\n"
        ".validation{fill:none;stroke:#bc4c00;stroke-width:1.5;stroke-dasharray:5 4}\n"
        ".dot{fill:#bc4c00;stroke:#ffffff;stroke-width:1.5}.t{fill:#0969da;font-weight:600}.v{fill:#bc4c00;font-weight:"
        "600}\n"
        "@media (prefers-color-scheme:dark){\n"
        ".card{fill:#0d1117;stroke:#30363d}.grid{stroke:#21262d}.axis{stroke:#6e7681}\n"
        ".heading,.label{fill:#e6edf3}.note,.tick{fill:#8d96a0}\n"
        ".raw{stroke:#388bfd;stroke-opacity:.5}.training{stroke:#79c0ff}.validation{stroke:#ffa657}\n"
        ".dot{fill:#ffa657;stroke:#0d1117}}\n"
        "</style>\n"
        "<g font-family=\"-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif\">\n"
        "<rect class=\"card\" x=\".5\" y=\".5\" width=\"859\" height=\"479\" rx=\"8\"/>\n";
    text("heading", left, 36, heading);
  }
  void grid() {
    std::string lines;
    auto const rule = [&](char const* kind, double x1, double y1, double x2, double y2) {
      lines += "<path class=\"" + std::string(kind) + "\" d=\"M" + number(x1) + " " + number(y1) + "L" + number(x2) +
               " " + number(y2) + "\"/>\n";
    };
    for (int i = 0; y_low + i * y_tick <= y_high + y_tick / 2; ++i) {
      double const y = y_low + i * y_tick;
      rule(i ? "grid" : "axis", left, y_of(y), right, y_of(y));
      text("tick end", left - 10, y_of(y) + 4.5, label(y, y_tick, false));
    }
    bool const thousands = x_high >= 10000 && x_tick >= 1000;
    for (int i = 0; i * x_tick <= x_high * (1 + 1e-9); ++i) {
      double const x = i * x_tick;
      if (i) rule("grid", x_of(x), top, x_of(x), bottom);
      text("tick middle", x_of(x), bottom + 21, label(x, x_tick, thousands));
    }
    out += lines;
    text("note middle", (left + right) / 2, height - 18, "step");
    out += "<text class=\"note middle\" transform=\"translate(24 246) rotate(-90)\">loss (nats per token)</text>\n";
  }
  void line(char const* kind, std::vector<curve_point> const& points) {
    out += "<polyline class=\"" + std::string(kind) + "\" points=\"";
    for (bool first = true; auto const& p : points) {
      if (!std::exchange(first, false)) out += ' ';
      out += number(x_of(p.x)) + "," + number(y_of(p.y));
    }
    out += "\"/>\n";
  }
  void points() {
    if (validation.size() > 1) line("validation", thinned(validation, 200));
    if (validation.size() <= 60)
      for (auto const& p : validation)
        out += "<circle class=\"dot\" cx=\"" + number(x_of(p.x)) + "\" cy=\"" + number(y_of(p.y)) + "\" r=\"4\"/>\n";
  }
  void legend() {
    double x = left;
    auto const entry = [&](char const* kind, char const* what, double value) {
      char words[64];
      std::snprintf(words, sizeof words, std::isnan(value) ? "%s" : "%s %.3f", what, value);
      out += "<path class=\"" + std::string(kind) + "\" d=\"M" + number(x) + " 56h22\"/>\n";
      text("label", x + 30, 60.5, words);
      x += 160;
    };
    if (!smooth.empty()) entry("training", "training", smooth.back().y);
    if (!validation.empty()) {
      out += "<circle class=\"dot\" cx=\"" + number(x + 11) + "\" cy=\"56\" r=\"4\"/>\n";
      entry("validation", "validation", validation.back().y);
    }
    if (raw.size() > 1) entry("raw", "each step", std::nan(""));
  }

  std::string heading, out;
  std::vector<curve_point> raw, smooth, validation;
  double x_high = 1, x_tick = 1, y_low = 0, y_high = 1, y_tick = 1;
};

}  // namespace train

/// Writes the loss curve of a run: each step's training loss thin, its centred mean bold, validation as points.
/// @error file_error when it cannot be written   @test tests/train/loss_curve_test.cpp
inline void write_loss_curve(io::path const& svg, std::vector<step_metrics> const& metrics,
                             std::string_view title = "Training loss") {
  io::write_file_atomically(svg, train::loss_chart(metrics, title).svg());
}
/// The same from a metrics file.
inline void write_loss_curve(io::path const& svg, io::path const& metrics_file,
                             std::string_view title = "Training loss") {
  write_loss_curve(svg, read_metrics(metrics_file), title);
}

}  // namespace tenon
