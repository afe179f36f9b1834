// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: CLI11::CLI11
// Which meshes a model fits on and how long a step takes on each, before anything runs.
#include <cstdio>
#include <exception>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include <tenon/comm/mesh.hpp>
#include <tenon/io/atomic_file.hpp>

#include "plan/models.hpp"
#include "plan/report.hpp"

namespace {

using namespace plan_example;

/// What the command line says; what is empty is searched.
struct arguments {
  std::string model = "gpt3_175b", hardware = "a100_80gb", mesh, schedule, recompute, sequence_parallel, svg,
              precision = "bf16_mixed";
  index_t devices = 8, batch = 0, sequence_length = 0;
  std::size_t top = 10;
  std::optional<int> zero;
  std::optional<index_t> micro;
  bool as_json = false, ignores_memory = false;
};

std::string model_names() {
  std::string all;
  for (auto const& [name, shape] : known_models()) all.append(all.empty() ? "" : ", ").append(name);
  return all;
}

std::optional<arguments> read(int argc, char** argv) {
  arguments a;
  CLI::App app{"The best meshes for a model on so many devices, and why: memory to the byte, step time by formulas."};
  app.add_option("--model", a.model, "a config.json, or one of " + model_names());
  app.add_option("--devices", a.devices, "how many")->check(CLI::Range(1, 100000));
  app.add_option("--hardware", a.hardware, "what they are; host: this machine, measured")
      ->check(CLI::IsMember({"a100_80gb", "h100_sxm", "host"}));
  app.add_option("--batch", a.batch, "sequences of a step; otherwise the least multiple of the devices from 1024 on")
      ->check(CLI::Range(1, 100000000));
  app.add_option("--sequence-length", a.sequence_length, "tokens; otherwise the model's context")
      ->check(CLI::Range(1, 100000000));
  app.add_option("--precision", a.precision, "")->check(CLI::IsMember({"bf16_mixed", "fp32"}));
  app.add_option("--mesh", a.mesh, "only this one, as in tensor=8,pipeline=16; data may be left out");
  app.add_option("--zero", a.zero, "only this stage")->check(CLI::Range(0, 3));
  app.add_option("--micro-batch", a.micro, "only so many sequences")->check(CLI::Range(1, 1024));
  app.add_option("--recompute", a.recompute, "only this")->check(CLI::IsMember({"none", "selective", "full"}));
  app.add_option("--schedule", a.schedule, "only this")
      ->check(CLI::IsMember({"1f1b", "interleaved2", "interleaved4", "zero_bubble"}));
  app.add_option("--sequence-parallel", a.sequence_parallel, "only with it, or without")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_flag("--ignore-memory", a.ignores_memory, "also meshes that do not fit");
  app.add_option("--top", a.top, "meshes to show")->check(CLI::Range(1, 1000));
  app.add_flag("--json", a.as_json, "print one JSON object, and nothing else");
  app.add_option("--svg", a.svg, "write a picture of the step times to this file");
  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const&) {
    std::printf("%s", app.help().c_str());
    return {};
  } catch (CLI::ParseError const& e) {
    throw tenon::argument_error(std::string(e.what()) + ". Fix: see --help.");
  }
  return a;
}

/// Whether a mesh has what was asked for.
auto filter(arguments const& a) {
  auto const asked = tenon::comm::parse_mesh(a.mesh.empty() ? "data=1" : a.mesh);
  return [asked, a](parallel::strategy const& s) {
    for (auto const& [name, axis] : tenon::comm::detail::mesh_axes)
      if (a.mesh.find(name) != std::string::npos || (!a.mesh.empty() && axis != &tenon::comm::mesh_shape::data))
        if (s.mesh.*axis != asked.*axis) return false;
    if (!a.sequence_parallel.empty() && s.sequence_parallel != (a.sequence_parallel == "on")) return false;
    return (!a.zero || s.zero == *a.zero) && (!a.micro || s.micro == *a.micro) &&
           (a.recompute.empty() || a.recompute == name_of(s.recompute)) &&
           (a.schedule.empty() || s.mesh.pipeline == 1 || a.schedule == name_of(s.schedule));
  };
}

tenon::hardware find_hardware(arguments const& a) {
  if (a.hardware == "host") return tenon::hw::measure_this_host(int(a.devices));
  return a.hardware == "h100_sxm" ? tenon::hw::h100_sxm : tenon::hw::a100_80gb;
}

}  // namespace

int main(int argc, char** argv) try {
  auto const a = read(argc, argv);
  if (!a) return 0;
  subject of{a->model, find_model(a->model), find_hardware(*a), {}};
  of.asked = {.devices = a->devices,
              .batch = a->batch ? a->batch : tenon::round_up(1024, a->devices),
              .sequence_length = a->sequence_length ? a->sequence_length : of.shape.context,
              .top = a->top,
              .usable_memory = a->ignores_memory ? 1e6 : 0.95,
              .accepts = filter(*a)};
  if (of.asked.sequence_length > of.shape.context)
    throw tenon::argument_error("a sequence of " + std::to_string(of.asked.sequence_length) +
                                " tokens is longer than " + a->model + " reads. Fix: at most its context, " +
                                std::to_string(of.shape.context) + ".");
  auto const found = parallel::search(of.shape, of.on, of.asked, {.value_bytes = a->precision == "fp32" ? 4 : 2});
  if (found.best.empty())
    throw tenon::argument_error(
        a->model + " fits on no mesh of " + std::to_string(a->devices) + " x " + of.on.name + ": " +
        tenon::comm::to_string(found.smallest.how.mesh) + " with zero<" + std::to_string(found.smallest.how.zero) +
        "> takes least, " + std::to_string(found.smallest.bytes.total() >> 20) + " MiB of " +
        std::to_string(of.on.memory_bytes >> 20) + " MiB. Fix: more devices, or fewer demands.");
  if (a->as_json) std::printf("%s\n", to_json(of, found).dump(1).c_str());
  else print_table(of, found);
  if (!a->svg.empty()) tenon::io::write_file_atomically(a->svg, to_svg(of, found));
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "plan: %s\n", e.what());
  return 1;
}
