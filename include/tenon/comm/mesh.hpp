// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranks as a mesh: every axis of parallelism is a group of ranks.
#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <system_error>

#include <tenon/comm/communicator.hpp>
#include <tenon/core/error.hpp>

namespace tenon::comm {

/// How many ranks each axis has; they multiply to all ranks.
struct mesh_shape {
  int data = 1, tensor = 1, context = 1, pipeline = 1, expert = 1;
  constexpr int size() const { return data * tensor * context * pipeline * expert; }
  friend constexpr bool operator==(mesh_shape const&, mesh_shape const&) = default;
  /// Calls visit(name, degree) for each axis.
  template <class Self, class Visit>
  static constexpr void for_each_axis(Self& m, Visit&& visit) {
    visit("data", m.data), visit("tensor", m.tensor), visit("context", m.context);
    visit("pipeline", m.pipeline), visit("expert", m.expert);
  }
};

/// As on a command line: "data=2,tensor=2"; axes of one rank are left out.
inline std::string to_string(mesh_shape const& m) {
  std::string text;
  mesh_shape::for_each_axis(m, [&](char const* name, int degree) {
    if (degree != 1) text += (text.empty() ? "" : ",") + std::string(name) + "=" + std::to_string(degree);
  });
  return text.empty() ? "data=1" : text;
}
/// @error argument_error names what is not an axis with a degree
inline mesh_shape parse_mesh(std::string_view text) {
  mesh_shape m;
  std::string seen;
  for (std::string_view rest = text; !rest.empty();) {
    auto const comma = std::min(rest.find(','), rest.size());
    std::string_view const item = rest.substr(0, comma);
    rest.remove_prefix(std::min(rest.size(), comma + 1));
    auto const equals = std::min(item.find('='), item.size());
    std::string const axis(item.substr(0, equals));
    auto const fail = [&](std::string const& why) {
      throw argument_error(
          "mesh '" + std::string(text) + "': " + why +
          ". Fix: degrees by axis, e.g. data=2,tensor=2; axes are data, tensor, context, pipeline, expert.");
    };
    bool known = false;
    mesh_shape::for_each_axis(m, [&](char const* name, int& degree) {
      if (axis != name) return;
      known = true;
      auto const number = equals < item.size() ? item.substr(equals + 1) : std::string_view();
      auto const r = std::from_chars(number.data(), number.data() + number.size(), degree);
      if (r.ec != std::errc() || r.ptr != number.data() + number.size() || degree < 1 || degree > 1 << 20)
        fail("'" + std::string(item) + "' has no degree of 1 or more");
    });
    if (!known) fail("'" + axis + "' is no axis");
    if (seen.find("," + axis + ",") != std::string::npos) fail("'" + axis + "' is there twice");
    seen += "," + axis + ",";
  }
  return m;
}

/// This rank's place in a mesh, and the groups that it is in. Ranks count with tensor fastest, then context, expert,
/// data, and pipeline slowest: what talks most is nearest.
template <Communicator C>
class mesh {
 public:
  /// A collective over `all`, which must live longer.
  /// @error argument_error when the degrees do not multiply to the number of ranks
  mesh(C& all, mesh_shape degrees)
      : shape(checked(all, degrees)), world(all), tensor(line({1, 0, 0, 0, 0})), context(line({0, 1, 0, 0, 0})),
        expert(line({0, 0, 1, 0, 0})), data(line({0, 0, 0, 1, 0})), pipeline(line({0, 0, 0, 0, 1})),
        batch(line({0, 0, 1, 1, 0})), replicas(line({0, 1, 1, 1, 0})) {}
  mesh(mesh const&) = delete;
  mesh& operator=(mesh const&) = delete;

  mesh_shape shape;
  C& world;
  C tensor;    ///< ranks that hold parts of one layer
  C context;   ///< ranks that hold parts of one sequence
  C expert;    ///< ranks that hold different experts
  C data;      ///< ranks that hold the same parameters
  C pipeline;  ///< ranks that hold different layers
  C batch;     ///< expert x data: ranks that work on different samples
  C replicas;  ///< context x expert x data: ranks over which gradients are added

 private:
  static mesh_shape checked(C const& all, mesh_shape m) {
    if (m.size() != all.size())
      throw argument_error("tenon::mesh: " + to_string(m) + " is " + std::to_string(m.size()) + " ranks, but " +
                           std::to_string(all.size()) + (all.size() == 1 ? " was" : " were") + " started. Fix: start " +
                           std::to_string(m.size()) + ", or degrees that multiply to " + std::to_string(all.size()) +
                           ".");
    return m;
  }
  /// The group of ranks that differ from this one only in the marked axes.
  C line(std::array<int, 5> const& marked) {
    std::array<int, 5> const degrees{shape.tensor, shape.context, shape.expert, shape.data, shape.pipeline};
    int color = 0, key = 0;
    for (int i = 4, rest = world.size(), rank = world.rank(); i >= 0; --i) {
      rest /= degrees[std::size_t(i)];
      int const at = rank / rest;
      rank %= rest;
      (marked[std::size_t(i)] ? key : color) = (marked[std::size_t(i)] ? key : color) * degrees[std::size_t(i)] + at;
    }
    return world.split(color, key);
  }
};

}  // namespace tenon::comm
