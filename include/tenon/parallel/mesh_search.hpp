// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Which meshes a model fits on, and which of them is fastest.
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/parallel/step_time.hpp>

namespace tenon::parallel {

/// A mesh with what is foretold for it.
struct planned_mesh {
  strategy how;
  footprint bytes;  ///< of the rank that holds most
  step_traffic sent;
  step_time time;
};

/// Foretells for one mesh after the other; what programs of schedules say is worked out once.
class mesh_planner {
 public:
  mesh_planner(nn::model_shape const& what, hardware const& on) : model(what), device(on) {}

  planned_mesh plan(strategy const& s) { return {s, fullest(s), traffic_of(model, s), time_of(model, s, device)}; }

  /// The bytes of the rank that holds most, of the first replica: others have up to 16 values more in a bucket.
  footprint fullest(strategy const& s) {
    footprint most;
    for (int r = 0; r < s.mesh.pipeline; ++r) {
      auto const f = footprint_of(model, s, {.pipeline = r}, flights(s, r));
      if (f.total() > most.total()) most = f;
    }
    return most;
  }
  /// The first stage with one micro-batch under way: never more than `fullest`.
  index_t least(strategy const& s) const {
    return footprint_of(model, s, {}, std::vector<int>(std::size_t(s.schedule.chunks), 1)).total();
  }

 private:
  std::vector<int> const& flights(strategy const& s, int rank) {
    auto& known = seen[{s.schedule.make, s.mesh.pipeline, s.accumulate, rank}];
    if (known.empty())
      known = flights_of(s.schedule.make(s.mesh.pipeline, rank, int(s.accumulate)), rank, s.mesh.pipeline,
                         s.schedule.chunks);
    return known;
  }
  nn::model_shape model;
  hardware device;
  std::map<std::tuple<program (*)(int, int, int), int, index_t, int>, std::vector<int>> seen;
};

/// What `search` looks for.
struct search_options {
  index_t devices = 1;
  index_t batch = 1;
  index_t sequence_length = 0;
  std::size_t top = 10;
  double usable_memory = 0.9;  ///< the rest is for scratch of kernels, the communicator and the driver
  std::function<bool(strategy const&)> accepts{};  ///< what else a mesh must be; empty: nothing
};
struct search_result {
  std::vector<planned_mesh> best;  ///< the fastest first
  std::size_t candidates = 0;      ///< meshes that the model and the batch can be cut for
  std::size_t too_large = 0;       ///< of those that are faster than the last in `best`
  planned_mesh smallest{};         ///< where nothing fits: what needs least
};

namespace detail {

/// Calls f(n) for the divisors of `of` up to `most`, from 1 on.
template <class F>
void for_each_divisor(index_t of, index_t most, F&& f) {
  for (index_t n = 1; n <= std::min(of, most); ++n)
    if (of % n == 0) f(int(n));
}
/// Ranks that may share heads, features and the vocabulary.
inline bool can_cut(nn::model_shape const& m, int tensor) {
  auto const even = [&](index_t extent) {
    index_t const share = nn::share_of_ranks(extent, reduction_order::feature_leaf(extent), tensor);
    return share != 0 && share % lanes == 0;
  };
  return tensor == 1 ||
         (m.kv_heads % tensor == 0 && m.query_width() / tensor % lanes == 0 && even(m.hidden) && even(m.vocabulary));
}

/// Calls f(strategy) for every mesh of the library's rules.
template <class F>
void for_each_mesh(nn::model_shape const& m, search_options const& o, strategy const& common, F&& f) {
  static constexpr schedule_functions schedules[] = {functions_of<one_f_one_b>, functions_of<interleaved<2>>,
                                                     functions_of<interleaved<4>>, functions_of<zero_bubble>};
  strategy s = common;
  auto const with_memory = [&] {
    for (s.zero = 0; s.zero <= (s.mesh.pipeline == 1 ? 3 : 1); ++s.zero) {
      if (s.zero > 0 && s.mesh.data == 1) break;
      for (auto const kept :
           {memory::recompute::nothing, memory::recompute::cheap_parts, memory::recompute::whole_layers})
        s.recompute = kept, f(s);
    }
  };
  auto const with_micro_batches = [&] {
    index_t const samples = o.batch / s.groups();
    for (s.micro = 1; s.micro <= (s.mesh.context > 1 ? 1 : 16) && samples % s.micro == 0; s.micro *= 2) {
      s.accumulate = samples / s.micro;
      for (auto const& schedule : schedules) {
        s.schedule = schedule;
        if (s.mesh.pipeline == 1 && !schedule.is_one_f_one_b) break;
        if (m.layers >= index_t(s.mesh.pipeline) * schedule.chunks &&
            s.accumulate % schedule.multiple(s.mesh.pipeline) == 0)
          with_memory();
      }
    }
  };
  for (int tensor : {1, 2, 4, 8}) {
    if (o.devices % tensor || !can_cut(m, tensor)) continue;
    for (int context : {1, 2, 4, 8}) {
      index_t const rest = o.devices / tensor / context;
      if (o.devices % (tensor * context) || (context > 1 && (m.experts || s.sequence_length / context % 128))) continue;
      for_each_divisor(rest, m.layers, [&](int pipeline) {
        for_each_divisor(rest / pipeline, std::max<index_t>(m.experts, 1), [&](int expert) {
          if (m.experts && m.experts % expert) return;
          s.mesh = {int(rest / pipeline / expert), tensor, context, pipeline, expert};
          if (o.batch % s.groups()) return;
          for (bool cut : {true, false}) {
            s.sequence_parallel = cut;
            if (!cut || (tensor > 1 && !m.experts)) with_micro_batches();
          }
        });
      });
    }
  }
}

}  // namespace detail

/// The fastest meshes that a model fits on. @param common what is not searched: precision and optimizer
/// @error argument_error when the batch cannot be cut for so many devices
inline search_result search(nn::model_shape const& model, hardware const& on, search_options const& o,
                            strategy common) {
  common.sequence_length = o.sequence_length ? o.sequence_length : model.context;
  common.token_leaf = reduction_order::token_leaf(common.sequence_length);
  struct candidate {
    double seconds;
    strategy how;
  };
  std::vector<candidate> all;
  detail::for_each_mesh(model, o, common, [&](strategy const& s) {
    if (!o.accepts || o.accepts(s)) all.push_back({time_of(model, s, on).step, s});
  });
  if (all.empty())
    throw argument_error("tenon::plan: no mesh of " + std::to_string(o.devices) + " devices cuts a batch of " +
                         std::to_string(o.batch) + " sequences and " + std::to_string(model.layers) + " layers" +
                         (o.accepts ? " as asked" : "") +
                         ". Fix: a batch that is a multiple of the devices, a number of devices with small factors, or "
                         "fewer demands.");
  std::stable_sort(all.begin(), all.end(), [](auto const& a, auto const& b) { return a.seconds < b.seconds; });
  mesh_planner planner(model, on);
  search_result r;
  r.candidates = all.size();
  auto const limit = index_t(double(on.memory_bytes) * o.usable_memory);
  candidate const* smallest = nullptr;
  index_t least_bytes = 0;
  for (auto const& c : all) {
    if (r.best.size() == o.top) break;
    index_t const least = planner.least(c.how);
    if (!smallest || least < least_bytes) smallest = &c, least_bytes = least;
    bool fits = least <= limit;
    if (fits) {
      auto const p = planner.plan(c.how);
      if ((fits = p.bytes.total() <= limit)) r.best.push_back(p);
    }
    r.too_large += !fits;
  }
  if (r.best.empty()) r.smallest = planner.plan(smallest->how);
  return r;
}

}  // namespace tenon::parallel
