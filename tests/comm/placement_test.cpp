// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include <tenon/comm.hpp>

using namespace tenon;
using comm::partial;
using comm::placed;
using comm::replicas_axis;
using comm::shard;
using comm::threads;
using comm::world_axis;

namespace {
// On meshes of `axis` with 1 to 4 ranks.
template <class F>
void on_meshes(int comm::mesh_shape::*axis, F&& f) {
  for (int ranks = 1; ranks <= 4; ++ranks)
    threads::run(ranks, [&](threads& world) {
      comm::mesh_shape shape;
      shape.*axis = ranks;
      comm::mesh<threads> mesh(world, shape);
      f(mesh, world.rank(), ranks);
    });
}
}  // namespace

TEST_CASE("placement: a value is as large as what it holds") {
  CHECK(sizeof(placed<index_t, partial<world_axis>>) == sizeof(index_t));
  CHECK(sizeof(placed<std::span<float>, shard<data_axis>, partial<tensor_axis>>) == sizeof(std::span<float>));
  CHECK(sizeof(placed<exact_sum>) == sizeof(exact_sum));
}

TEST_CASE("placement: a mean over ranks weighs what was counted, not ranks") {
  on_meshes(&comm::mesh_shape::data, [](comm::mesh<threads>& mesh, int rank, int ranks) {
    // Rank r has r + 1 tokens, each with the loss r + 1.
    placed<exact_sum, partial<data_axis>> loss, more;
    placed<index_t, partial<data_axis>> count(rank + 1);
    for (int t = 0; t < rank; ++t) loss.local().add(rank + 1);
    more.local().add(rank + 1);
    add(loss, more);
    double squares = 0, tokens = 0;
    for (int r = 1; r <= ranks; ++r) squares += r * r, tokens += r;
    comm::mean const mean(all_reduce<data_axis>(mesh, loss), all_reduce<data_axis>(mesh, count));
    CHECK(mean.value() == squares / tokens);
    CHECK(comm::mean(placed<exact_sum>(), placed<index_t>()).value() == 0);
  });
}

TEST_CASE("placement: partial to shard to replicated, on one axis of several") {
  on_meshes(&comm::mesh_shape::tensor, [](comm::mesh<threads>& mesh, int rank, int ranks) {
    std::size_t const n = 70;
    std::vector<float> mine(n), whole(n), own(n);
    for (std::size_t i = 0; i < n; ++i) mine[i] = float(i) + float(rank);
    auto const cuts = comm::even_cuts(n, ranks, 16);
    std::size_t const begin = cuts[std::size_t(rank)], size = cuts[std::size_t(rank) + 1] - begin;
    placed<std::span<float>, shard<pipeline_axis>, partial<tensor_axis>> const summand(mine);
    auto part = comm::reduce_scatter<tensor_axis>(mesh, summand, std::span(own).first(size), cuts);
    CHECK(std::same_as<decltype(part), placed<std::span<float>, shard<pipeline_axis>, shard<tensor_axis>>>);
    auto const expected = [&](std::size_t i) {
      float sum = 0;
      for (int r = 0; r < ranks; ++r) sum += float(i) + float(r);
      return sum;
    };
    for (std::size_t i = 0; i < size; ++i) CHECK(part.local()[i] == expected(begin + i));
    scale(part, placed<float>(0.5f));
    auto const all = comm::all_gather<tensor_axis>(mesh, part, std::span(whole), cuts);
    CHECK(std::same_as<decltype(all), placed<std::span<float>, shard<pipeline_axis>> const>);
    for (std::size_t i = 0; i < n; ++i) CHECK(whole[i] == expected(i) / 2);
    auto const sum = comm::all_reduce<tensor_axis>(mesh, summand);
    for (std::size_t i = 0; i < n; ++i) CHECK(sum.local()[i] == expected(i));
    CHECK(comm::reduced(part).data() == own.data());
  });
}

TEST_CASE("placement: squares of shards are partial, of what is replicated they are replicated") {
  on_meshes(&comm::mesh_shape::context, [](comm::mesh<threads>& mesh, int rank, int ranks) {
    std::vector<float> values{3, float(rank)};
    placed<std::span<float const>, shard<replicas_axis>> const part(values);
    auto const squares = comm::sum_of_squares(part);
    CHECK(std::same_as<decltype(squares), placed<exact_sum, partial<replicas_axis>> const>);
    double expected = 0;
    for (int r = 0; r < ranks; ++r) expected += 9 + r * r;
    CHECK(comm::norm(all_reduce<replicas_axis>(mesh, squares)) == std::sqrt(expected));
    placed<std::span<float const>> const same({values.data(), 1});
    CHECK(comm::norm(comm::sum_of_squares(same)) == 3);
    CHECK(same.whole()[0] == 3);
  });
}

TEST_CASE("placement: each axis is a group of the mesh") {
  threads::run(4, [](threads& world) {
    comm::mesh<threads> mesh(world, {.data = 2, .tensor = 2});
    auto const ranks_along = [&]<class Axis>(Axis) {
      return all_reduce<Axis>(mesh, placed<index_t, partial<Axis>>(1)).whole();
    };
    CHECK(ranks_along(data_axis()) == 2);
    CHECK(ranks_along(tensor_axis()) == 2);
    CHECK(ranks_along(replicas_axis()) == 2);
    CHECK(ranks_along(world_axis()) == 4);
    for (index_t one : {ranks_along(context_axis()), ranks_along(pipeline_axis()), ranks_along(expert_axis())})
      CHECK(one == 1);
    // Numbers of ranks tell data from tensor, which have as many.
    placed<index_t, partial<tensor_axis>> const number(world.rank());
    CHECK(all_reduce<tensor_axis>(mesh, number).whole() == (world.rank() < 2 ? 1 : 5));
  });
}
