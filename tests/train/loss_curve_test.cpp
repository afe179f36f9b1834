// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/train/loss_curve.hpp>

namespace {

std::vector<tenon::step_metrics> run_of(int steps) {
  std::vector<tenon::step_metrics> all;
  for (int s = 1; s <= steps; ++s) {
    tenon::step_metrics m{s, 2 + 3 * std::exp(-s / 50.0) + 0.1 * std::sin(double(s)), 1e-3, 1, 100, {}};
    if (s % 20 == 0) m.validation_loss = m.loss + 0.1;
    all.push_back(m);
  }
  return all;
}
int count_of(std::string const& text, std::string const& part) {
  int n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}
/// Every element that is opened is closed, and no attribute holds nan or inf.
void check_markup(std::string const& svg) {
  std::vector<std::string> open;
  for (std::size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    std::size_t const end = svg.find('>', at);
    REQUIRE(end != std::string::npos);
    std::string const tag = svg.substr(at + 1, end - at - 1);
    if (tag[0] == '/') {
      REQUIRE_FALSE(open.empty());
      REQUIRE(open.back() == tag.substr(1));
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    REQUIRE(count_of(tag, "\"") % 2 == 0);
    CHECK(tag.find("nan") == std::string::npos);
    CHECK(tag.find("inf") == std::string::npos);
    CHECK(tag.find("null") == std::string::npos);
  }
  CHECK(open.empty());
}

}  // namespace

TEST_CASE("loss_curve is well-formed for runs of any length") {
  for (int steps : {0, 1, 2, 3, 19, 20, 600, 20000}) {
    auto const metrics = run_of(steps);
    std::string const svg = tenon::train::loss_chart(metrics, "a <b> & c").svg();
    CAPTURE(steps);
    check_markup(svg);
    CHECK(svg.find("a &lt;b&gt; &amp; c") != std::string::npos);
    CHECK(svg.size() < 60000);
    CHECK(svg.find("prefers-color-scheme:dark") != std::string::npos);
  }
  std::string const svg = tenon::train::loss_chart(run_of(600), "t").svg();
  CHECK(count_of(svg, "<circle") == 30 + 1);  // the points, and one in the legend
  CHECK(count_of(svg, "<polyline") == 3);
}

TEST_CASE("loss_curve survives losses that are no numbers, and constant ones") {
  std::vector<tenon::step_metrics> all = run_of(30);
  all[3].loss = std::nan("");
  all[4].loss = INFINITY;
  all[19].validation_loss = std::nan("");
  check_markup(tenon::train::loss_chart(all, "t").svg());
  for (auto& m : all) m.loss = 2.5, m.validation_loss = {};
  check_markup(tenon::train::loss_chart(all, "t").svg());
  for (auto& m : all) m.loss = std::nan("");
  check_markup(tenon::train::loss_chart(all, "t").svg());
}

TEST_CASE("loss_curve: ticks are round, smoothing keeps a constant and a mean, thinning keeps spikes") {
  for (double span : {0.003, 0.7, 1.0, 4.2, 99.0, 12345.0}) {
    double const t = tenon::train::tick_distance(span, 6);
    double const lead = t / std::pow(10.0, std::floor(std::log10(t) + 1e-9));
    CHECK((std::abs(lead - 1) < 1e-9 || std::abs(lead - 2) < 1e-9 || std::abs(lead - 5) < 1e-9));
    CHECK(span / t <= 6.001);
    CHECK(span / t >= 2.4);
  }
  std::vector<tenon::train::curve_point> line;
  for (int i = 0; i < 1000; ++i) line.push_back({double(i), 2.0 * i});
  auto const smooth = tenon::train::smoothed(line);
  for (std::size_t i = 0; i < 900; ++i) CHECK(std::abs(smooth[i].y - line[i].y) <= 50.01);
  CHECK(smooth[0].y == line[0].y);
  CHECK(smooth[500].y == doctest::Approx(line[500].y));
  line[777].y = 1e6;
  auto const thin = tenon::train::thinned(line, 50);
  CHECK(thin.size() <= 100);
  bool kept = false;
  for (auto const& p : thin) kept = kept || p.y == 1e6;
  CHECK(kept);
  for (std::size_t i = 1; i < thin.size(); ++i) CHECK(thin[i - 1].x < thin[i].x);
}

TEST_CASE("loss_curve is written from a metrics file") {
  scratch_folder const folder;
  tenon::metrics_writer w(folder / "metrics.jsonl", 0);
  for (auto const& m : run_of(40)) w.write(m);
  tenon::write_loss_curve(folder / "loss.svg", w.path());
  CHECK(folder.read("loss.svg") == tenon::train::loss_chart(run_of(40), "Training loss").svg());
}
