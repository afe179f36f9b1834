// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The lines of types that a program has trainers for, and the choice among them. examples/CMakeLists.txt lists
/// them; each is compiled in a source of its own, which adds it to `lines`.
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/comm/mesh.hpp>

#include "arguments.hpp"

namespace train_gpt {

/// The trainers of one line of types, for all models and precisions.
template <class World>
struct line {
  std::string policies;              // as in the list
  int dynamic_axes;                  // whose degrees are known when the program runs only
  bool (*fits)(arguments const& a);  // does what the arguments ask for
  nlohmann::ordered_json (*run)(World& world, arguments const& a);
};
template <class World>
std::vector<line<World>>& lines() {
  static std::vector<line<World>> all;
  return all;
}

/// The line of types that the arguments ask for.
std::string policies_of(arguments const& a);

/// Trains on the ranks of `world`: with the line that fits and leaves the least to be decided when the program runs.
/// @error argument_error names the lines that there are
template <class World>
nlohmann::ordered_json train(World& world, arguments const& a) {
  if (a.mesh.size() != world.size()) tenon::comm::mesh<World>(world, a.mesh);  // which says so
  line<World> const* best = nullptr;
  std::string names;
  for (auto const& l : lines<World>()) {
    names.append(names.empty() ? "'" : ", '").append(l.policies).append("'");
    if (l.fits(a) && (!best || l.dynamic_axes < best->dynamic_axes)) best = &l;
  }
  if (!best)
    throw tenon::argument_error("no trainer was compiled for " + policies_of(a) + "; there are " + names +
                                ". Fix: add it to TENON_EXAMPLE_MESHES in examples/CMakeLists.txt and build again.");
  return best->run(world, a);
}

}  // namespace train_gpt
