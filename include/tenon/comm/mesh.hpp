// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranks as a mesh of up to five axes.   @test tests/comm/mesh_test.cpp
#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include <tenon/comm/check.hpp>
#include <tenon/comm/communicator.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>

namespace tenon::comm {

/// Ranks along each axis.
struct mesh_shape {
  int data = 1, tensor = 1, context = 1, pipeline = 1, expert = 1;
  constexpr index_t size() const { return index_t(data) * tensor * context * pipeline * expert; }
  friend bool operator==(mesh_shape const&, mesh_shape const&) = default;
};

namespace detail {
// Name and member. (nvcc writes a struct's own pointer to member in a way that g++ warns of.)
using mesh_axis = std::pair<char const*, int mesh_shape::*>;
inline constexpr std::array<mesh_axis, 5> mesh_axes{{{"data", &mesh_shape::data},
                                                     {"tensor", &mesh_shape::tensor},
                                                     {"context", &mesh_shape::context},
                                                     {"pipeline", &mesh_shape::pipeline},
                                                     {"expert", &mesh_shape::expert}}};
inline constexpr int most_ranks_of_axis = 4096;
}  // namespace detail

/// "data=2,tensor=2"; "data=1" for one rank.
inline std::string to_string(mesh_shape const& shape) {
  std::string text;
  for (auto const& [name, ranks] : detail::mesh_axes)
    if (shape.*ranks != 1) {
      if (!text.empty()) text += ',';
      (text += name) += '=';
      text += std::to_string(shape.*ranks);
    }
  return text.empty() ? "data=1" : text;
}

/// The inverse of to_string.   @error argument_error that quotes what is wrong
inline mesh_shape parse_mesh(std::string_view text) {
  mesh_shape shape;
  std::array<bool, detail::mesh_axes.size()> seen{};
  auto const refuse = [&](std::string const& why) { throw argument_error("mesh '" + std::string(text) + "': " + why); };
  for (std::string_view rest = text;;) {
    std::string_view const part = rest.substr(0, rest.find(','));
    std::string_view const name = part.substr(0, part.find('='));
    std::string_view const number = part.substr(std::min(name.size() + 1, part.size()));
    std::size_t at = 0;
    while (at < seen.size() && name != detail::mesh_axes[at].first) ++at;
    if (at == seen.size())
      refuse("'" + std::string(name) +
             "' is no axis. Fix: data, tensor, context, pipeline or expert, as in data=2,tensor=2.");
    if (seen[at]) refuse(std::string(name) + " is given twice. Fix: once each.");
    seen[at] = true;
    int& n = shape.*detail::mesh_axes[at].second;
    auto const [end, code] = std::from_chars(number.data(), number.data() + number.size(), n);
    if (code != std::errc() || end != number.data() + number.size() || n < 1 || n > detail::most_ranks_of_axis)
      refuse(std::string(name) + " is '" + std::string(number) + "'. Fix: a whole number from 1 to " +
             std::to_string(detail::most_ranks_of_axis) + ".");
    if (part.size() == rest.size()) return shape;
    rest.remove_prefix(part.size() + 1);
  }
}

/// The groups of one rank in a mesh. A rank's number in the world counts tensor fastest, then context, expert, data and
/// pipeline. A group's rank is the coordinate along its axes.
/// @error argument_error when the shape does not make up the world; error(comm_failed) when a rank does not come
template <Communicator C>
class mesh {
 public:
  /// A collective. `all` lives longer.
  mesh(C& all, mesh_shape const& shape) : mesh(all, place(all, shape)) {}

  /// Where the operations of all these groups are recorded, the world's too; null: nowhere.
  void record(profile::recorder* r) {
    for (C* group : {&world, &tensor, &context, &pipeline, &expert, &data, &batch, &replicas}) group->profiler = r;
  }

  constexpr mesh_shape shape() const {
    return {data.size(), tensor.size(), context.size(), pipeline.size(), expert.size()};
  }
  constexpr int size() const { return int(shape().size()); }
  constexpr int tensor_rank() const { return tensor.rank(); }
  constexpr int context_rank() const { return context.rank(); }
  constexpr int expert_rank() const { return expert.rank(); }
  constexpr int data_rank() const { return data.rank(); }
  constexpr int pipeline_rank() const { return pipeline.rank(); }

 private:
  // This rank's coordinates, and how far apart in the world two neighbours along an axis are.
  struct coordinate {
    int at, stride;
  };
  struct place {
    place(C& world, mesh_shape const& shape) : all(world.rank()) {
      for (auto const& [name, ranks] : detail::mesh_axes)
        if (shape.*ranks < 1)
          throw argument_error("the mesh has " + std::to_string(shape.*ranks) + " ranks along " + name +
                               ". Fix: at least 1.");
      if (shape.size() != world.size())
        throw argument_error("the mesh " + to_string(shape) + " takes " + std::to_string(shape.size()) +
                             " ranks, and there are " + std::to_string(world.size()) + ". Fix: start " +
                             std::to_string(shape.size()) + " ranks, or choose axes whose product is " +
                             std::to_string(world.size()) + ".");
      wait_for_all(world);
      int stride = 1, rest = all;
      auto const next = [&](int ranks) {
        coordinate const c{rest % ranks, stride};
        rest /= ranks;
        stride *= ranks;
        return c;
      };
      tensor = next(shape.tensor);
      context = next(shape.context);
      expert = next(shape.expert);
      data = next(shape.data);
      pipeline = next(shape.pipeline);
    }
    // The ranks that differ from this one in these coordinates only, in the order of the world.
    template <class... Axes>
    C group(C& world, Axes... axes) const {
      return world.split(all - (0 + ... + (axes.at * axes.stride)), all);
    }
    int all;
    coordinate tensor, context, expert, data, pipeline;
  };
  mesh(C& all, place const& p)
      : world(all), tensor(p.group(all, p.tensor)), context(p.group(all, p.context)),
        pipeline(p.group(all, p.pipeline)), expert(p.group(all, p.expert)), data(p.group(all, p.data)),
        batch(p.group(all, p.data, p.expert)), replicas(p.group(all, p.data, p.expert, p.context)) {}

 public:
  C& world;
  C tensor;    ///< hold parts of the same matrices
  C context;   ///< hold parts of the same sequences
  C pipeline;  ///< hold other layers of the same model
  C expert;    ///< hold other experts of the same layers
  C data;      ///< hold the same weights, experts too
  C batch;     ///< data x expert: hold different samples; rank data_rank * expert + expert_rank
  C replicas;  ///< batch x context: hold the same weights but for experts; rank batch_rank * context + context_rank
};

}  // namespace tenon::comm
