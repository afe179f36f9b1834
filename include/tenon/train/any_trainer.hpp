// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A trainer but for its types: what checkpoints and `fit` use of it. What takes this is compiled once for a
/// communicator, and not with every trainer (docs/decisions/0020-compile-time.md).
/// @test tests/train/checkpoint_test.cpp
#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>

#include <tenon/core/parameter.hpp>
#include <tenon/exec/host/thread_pool.hpp>
#include <tenon/optim/loss_scale.hpp>
#include <tenon/parallel/receipt.hpp>
#include <tenon/parallel/sharding.hpp>
#include <tenon/train/options.hpp>

namespace tenon {

using parallel::state_kind;

namespace train {

/// Called with n values that are the elements of a whole parameter from number `there` on.
using owned_visitor = std::function<void(index_t there, float const* values, index_t n)>;

/// A whole parameter on every rank, of which each owns parts: a collective.
/// @param visit has its argument called for what this rank owns
template <class World>
void read_owned(World& world, std::function<void(owned_visitor const&)> const& visit, std::span<float> out) {
  if (world.size() == 1)
    return visit([&](index_t there, float const* from, index_t n) { std::copy_n(from, n, out.data() + there); });
  // Each element has one owner, so a sum of bits is the bits.
  constexpr index_t piece = index_t(1) << 20;
  std::vector<std::int64_t> bits;
  for (index_t begin = 0, all = index_t(out.size()); begin < all; begin += piece) {
    parallel::stretch const part{begin, std::min(all, begin + piece)};
    bits.assign(std::size_t(part.size()), 0);
    visit([&](index_t there, float const* from, index_t n) {
      auto const run = parallel::intersection({there, there + n}, part);
      for (index_t i = run.begin; i < run.end; ++i)
        bits[std::size_t(i - begin)] = std::bit_cast<std::int32_t>(from[i - there]);
    });
    world.sum(bits);
    for (std::size_t i = 0; i < bits.size(); ++i)
      out[std::size_t(begin) + i] = std::bit_cast<float>(std::int32_t(bits[i]));
  }
}

/// A number of a model's shape.
struct config_field {
  char const* name;
  std::variant<bool, index_t, double> value;
};

/// The members are those of `trainer`, which lives longer.
template <class World>
struct any_trainer {
  template <class Trainer>
  explicit any_trainer(Trainer& t)
      : world(t.mesh().world), pool(t.context().pool()), parameters(t.parameter_list()),
        model(Trainer::model_type::name), precision(Trainer::set::precision::name),
        optimizer(Trainer::set::optimizer::name), optimizer_tensors(Trainer::set::optimizer::state_tensors),
        zero(Trainer::set::zero::stage), sequence_parallel(!std::is_void_v<typename Trainer::set::sequence>),
        mesh(t.mesh().shape()), options(t.options()), scaler(t.progress().scaler), steps(t.progress().steps),
        samples(t.progress().samples), for_each_owned([&t](state_kind kind, parameter_spec const& s,
                                                           owned_visitor const& f) { t.for_each_owned(kind, s, f); }),
        write([&t](state_kind kind, parameter_spec const& s, std::span<float const> v) { t.write(kind, s, v); }),
        restored([&t] { t.restored(); }), record_receipts([&t](receipt::recorder* r) { t.record_receipts(r); }) {
    Trainer::config_type::for_each_field(t.config(), [this](char const* name, auto value) {
      if constexpr (std::is_floating_point_v<decltype(value)>) config.push_back({name, double(value)});
      else config.push_back({name, value});
    });
  }
  void read(state_kind kind, parameter_spec const& spec, std::span<float> out) const {
    read_owned(
        world, [&](owned_visitor const& f) { for_each_owned(kind, spec, f); }, out);
  }

  World& world;
  exec::thread_pool& pool;
  std::span<parameter_spec const> parameters;
  char const *model, *precision, *optimizer;
  std::vector<config_field> config{};
  int optimizer_tensors;  ///< that the optimizer keeps for each parameter
  int zero;               ///< the stage
  bool sequence_parallel;
  comm::mesh_shape mesh;
  train_options const& options;
  optim::loss_scale& scaler;
  index_t &steps, &samples;
  std::function<void(state_kind, parameter_spec const&, owned_visitor const&)> for_each_owned;
  std::function<void(state_kind, parameter_spec const&, std::span<float const>)> write;
  std::function<void()> restored;
  std::function<void(receipt::recorder*)> record_receipts;
};
template <class Trainer>
any_trainer(Trainer&) -> any_trainer<typename Trainer::world_type>;

}  // namespace train
}  // namespace tenon
