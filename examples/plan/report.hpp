// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What `plan` says of meshes: a table, JSON, a picture.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/parallel/mesh_search.hpp>

#include "models.hpp"

namespace plan_example {

namespace parallel = tenon::parallel;
using json = nlohmann::ordered_json;
using parallel::planned_mesh;
using tenon::index_t;

inline char const* name_of(parallel::schedule_functions const& s) {
  return s.is_zero_bubble ? "zero_bubble" : s.is_one_f_one_b ? "1f1b" : s.chunks == 4 ? "interleaved4" : "interleaved2";
}
inline char const* name_of(tenon::memory::recompute r) {
  static constexpr char const* names[] = {"none", "selective", "full"};
  return names[int(r)];
}
using named_seconds = std::vector<std::pair<char const*, double>>;
inline named_seconds parts_of(parallel::step_time const& t) {
  return {{"products", t.products}, {"memory", t.memory},     {"tensor", t.tensor},
          {"pipeline", t.pipeline}, {"context", t.context},   {"expert", t.expert},
          {"bubble", t.bubble},     {"replicas", t.replicas}, {"update", t.update}};
}
inline double gib(index_t bytes) { return double(bytes) / double(index_t(1) << 30); }

/// What a plan is for.
struct subject {
  std::string model;
  tenon::nn::model_shape shape;
  tenon::hardware on;
  parallel::search_options asked;

  double per_second(planned_mesh const& p, double of_a_step) const { return of_a_step / p.time.step; }
  double share(planned_mesh const& p, double flops) const {
    return 100 * flops / (p.time.step * double(asked.devices) * on.flops);
  }
  double days(planned_mesh const& p, double tokens) const {
    return tokens / double(p.how.batch() * p.how.sequence_length) * p.time.step / 86400;
  }
  /// One sentence: what takes the time, and what of the memory.
  std::string why(planned_mesh const& p) const {
    auto parts = parts_of(p.time);
    std::stable_sort(parts.begin(), parts.end(), [](auto const& a, auto const& b) { return a.second > b.second; });
    std::string text;
    for (std::size_t i = 0; i < 3; ++i) {
      char one[64];
      std::snprintf(one, sizeof one, "%s%s %.0f %%", i ? ", " : "", parts[i].first,
                    100 * parts[i].second / p.time.step);
      text += one;
    }
    char memory[96];
    std::snprintf(memory, sizeof memory, "; %.0f of %.0f GiB, %.0f %% activations", gib(p.bytes.total()),
                  gib(on.memory_bytes), 100 * double(p.bytes.activations) / double(p.bytes.total()));
    return text + memory;
  }
};

inline json to_json(subject const& of, planned_mesh const& p) {
  auto const& s = p.how;
  parallel::published_flops const flops(of.shape, s);
  json seconds{{"step", p.time.step}};
  for (auto const& [name, value] : parts_of(p.time)) seconds[name] = value;
  return {{"mesh",
           {{"data", s.mesh.data},
            {"tensor", s.mesh.tensor},
            {"context", s.mesh.context},
            {"pipeline", s.mesh.pipeline},
            {"expert", s.mesh.expert}}},
          {"zero", s.zero},
          {"sequence_parallel", s.sequence_parallel},
          {"schedule", name_of(s.schedule)},
          {"recompute", name_of(s.recompute)},
          {"micro_batch", s.micro},
          {"micro_batches", s.accumulate},
          {"bytes_per_rank",
           {{"weights", p.bytes.weights},
            {"gradients", p.bytes.gradients},
            {"optimizer", p.bytes.optimizer},
            {"activations", p.bytes.activations},
            {"buffers", p.bytes.buffers},
            {"total", p.bytes.total()}}},
          {"bytes_sent_per_rank",
           {{"gradients", p.sent.gradients},
            {"parameters", p.sent.parameters},
            {"tensor", p.sent.tensor},
            {"pipeline", p.sent.pipeline},
            {"context", p.sent.context},
            {"expert", p.sent.expert}}},
          {"seconds", seconds},
          {"bubble", parallel::bubble_of(s)},
          {"flops_per_step", flops.hardware},
          {"teraflops_per_device", flops.hardware / p.time.step / double(of.asked.devices) / 1e12},
          {"utilisation_percent", of.share(p, flops.hardware)},
          {"model_utilisation_percent", of.share(p, flops.model)},
          {"tokens_per_second", of.per_second(p, double(s.batch() * s.sequence_length))},
          {"days_for_300e9_tokens", of.days(p, 300e9)},
          {"bound", p.time.bound()},
          {"why", of.why(p)}};
}
/// What papers report for this model on as many of these devices, beside what is planned for their mesh.
inline json published(subject of) {
  json all = json::array();
  for (auto const& run : published_runs) {
    if (run.model != of.model || run.devices != of.asked.devices || of.on.name != tenon::hw::a100_80gb.name) continue;
    of.asked.batch = run.batch;
    of.asked.sequence_length = 2048;
    of.asked.usable_memory = 1e6;  // theirs is another memory
    of.asked.top = 1;
    of.asked.accepts = [&](parallel::strategy const& s) {
      return s.mesh.tensor == run.tensor && s.mesh.pipeline == run.pipeline && s.mesh.context == 1 && s.zero == 0 &&
             !s.sequence_parallel && s.schedule.is_one_f_one_b && s.recompute == tenon::memory::recompute::whole_layers;
    };
    auto const planned = parallel::search(of.shape, of.on, of.asked, {.value_bytes = 2}).best.at(0);
    all.push_back({{"source", "arXiv:2104.04473"},
                   {"batch", run.batch},
                   {"utilisation_percent", run.percent},
                   {"planned", to_json(of, planned)}});
  }
  return all;
}
inline json to_json(subject const& of, parallel::search_result const& r) {
  json meshes = json::array();
  for (auto const& p : r.best) meshes.push_back(to_json(of, p));
  return {{"model", of.model},          {"parameters", of.shape.parameters()},
          {"hardware", of.on.name},     {"devices", of.asked.devices},
          {"batch", of.asked.batch},    {"sequence_length", of.asked.sequence_length},
          {"candidates", r.candidates}, {"faster_but_too_large", r.too_large},
          {"meshes", meshes},           {"published", published(of)}};
}

inline void print_table(subject const& of, parallel::search_result const& r) {
  std::printf("%s: %.4g parameters on %td x %s, batch %td x %td tokens\n", of.model.c_str(),
              double(of.shape.parameters()), of.asked.devices, of.on.name, of.asked.batch, of.asked.sequence_length);
  std::printf("%zu meshes can be cut, %zu faster ones do not fit\n\n", r.candidates, r.too_large);
  std::printf("%6s %6s %7s %8s %6s %4s %5s  %-12s %-9s %9s %6s %6s  %s\n", "data", "tensor", "context", "pipeline",
              "expert", "zero", "micro", "schedule", "recompute", "s/step", "MFU %", "bubble", "why");
  for (auto const& p : r.best) {
    auto const& m = p.how.mesh;
    std::printf("%6d %6d %7d %8d %6d %4d %5td  %-12s %-9s %9.3g %6.1f %6.3f  %s\n", m.data, m.tensor, m.context,
                m.pipeline, m.expert, p.how.zero, p.how.micro, m.pipeline > 1 ? name_of(p.how.schedule) : "-",
                name_of(p.how.recompute), p.time.step, of.share(p, parallel::published_flops(of.shape, p.how).model),
                parallel::bubble_of(p.how), of.why(p).c_str());
  }
}

/// A bar per mesh, cut into what takes the time: one self-contained file that suits light and dark viewers.
inline std::string to_svg(subject const& of, parallel::search_result const& r) {
  static constexpr char const* colours[] = {"#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377",
                                            "#ee8866", "#bbbbbb", "#ee6677", "#99ddff"};
  double longest = 0;
  for (auto const& p : r.best) longest = std::max(longest, p.time.step);
  std::string body;
  auto const text = [&](double x, double y, std::string const& what) {
    body += "<text x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\">" + what + "</text>\n";
  };
  auto const bar = [&](double x, double y, double width, std::size_t colour) {
    body += "<rect x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\" width=\"" + std::to_string(width) +
            "\" height=\"14\" fill=\"" + colours[colour] + "\"/>\n";
  };
  text(10, 20, of.model + " on " + std::to_string(of.asked.devices) + " x " + of.on.name + ": seconds of a step");
  auto const legend = parts_of({});
  for (std::size_t i = 0; i < legend.size(); ++i)
    bar(10 + 95 * double(i), 32, 12, i), text(26 + 95 * double(i), 43, legend[i].first);
  double y = 60;
  for (auto const& p : r.best) {
    auto const& m = p.how.mesh;
    text(10, y + 11,
         tenon::comm::to_string(m) + " zero " + std::to_string(p.how.zero) + " micro " + std::to_string(p.how.micro) +
             " " + name_of(p.how.recompute));
    double x = 330;
    auto const parts = parts_of(p.time);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      double const width = 440 * parts[i].second / longest;
      bar(x, y, width, i);
      x += width;
    }
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.3g s", p.time.step);
    text(x + 6, y + 11, seconds);
    y += 22;
  }
  std::string const height = std::to_string(int(y) + 10);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 " + height + "\" width=\"860\" height=\"" +
         height + "\" role=\"img\">\n<g font-family=\"sans-serif\" font-size=\"11\" fill=\"#808080\">\n" + body +
         "</g>\n</svg>\n";
}

}  // namespace plan_example
