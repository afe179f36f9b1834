// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <tenon/comm.hpp>

using namespace tenon;
using comm::mesh_shape;
using comm::threads;

namespace {
std::string refusal(std::string_view text) {
  try {
    comm::parse_mesh(text);
  } catch (argument_error const& e) {
    return e.what();
  }
  return "";
}
// The ranks of the world that are in a group, in its order.
template <class C>
std::vector<int> ranks_of(C& group, int mine) {
  std::vector<int> all(std::size_t(group.size()));
  all[std::size_t(group.rank())] = mine;
  std::vector<std::size_t> cuts;
  for (std::size_t r = 0; r <= all.size(); ++r) cuts.push_back(r * sizeof(int));
  group.all_gather(std::as_writable_bytes(std::span(all)), cuts);
  return all;
}
}  // namespace

TEST_CASE("mesh_shape: text and back") {
  CHECK(to_string(mesh_shape{}) == "data=1");
  CHECK(to_string(mesh_shape{.data = 2, .tensor = 2}) == "data=2,tensor=2");
  CHECK(comm::parse_mesh("data=1") == mesh_shape{});
  for (mesh_shape const s : {mesh_shape{.tensor = 8}, {.data = 3, .context = 4}, {2, 3, 4, 5, 6}}) {
    CHECK(comm::parse_mesh(to_string(s)) == s);
  }
  CHECK(comm::parse_mesh("expert=2,data=3") == mesh_shape{.data = 3, .expert = 2});
  CHECK(mesh_shape{2, 3, 4, 5, 6}.size() == 720);
  CHECK(refusal("data=2,tensr=2") ==
        "mesh 'data=2,tensr=2': 'tensr' is no axis. Fix: data, tensor, context, pipeline or expert, as in "
        "data=2,tensor=2.");
  CHECK(refusal("data=2,data=3") == "mesh 'data=2,data=3': data is given twice. Fix: once each.");
  for (char const* wrong : {"data=0", "data=-1", "data=x", "data=", "data", "data=2x", "data=99999999999", "data= 2"})
    CHECK(refusal(wrong).find("Fix: a whole number from 1 to 4096.") != std::string::npos);
  for (char const* wrong : {"", ",", "data=2,", "=2", "data=2;tensor=2 "}) CHECK(refusal(wrong) != "");
}

TEST_CASE("mesh: coordinates and groups") {
  std::mutex mutex;
  std::set<std::vector<int>> places;
  threads::run(16, [&](threads& world) {
    mesh_shape const shape{.data = 2, .tensor = 2, .context = 2, .pipeline = 1, .expert = 2};
    comm::mesh<threads> mesh(world, shape);
    int const t = mesh.tensor_rank(), c = mesh.context_rank(), e = mesh.expert_rank(), d = mesh.data_rank();
    auto const at = [](int te, int co, int ex, int da) { return te + 2 * (co + 2 * (ex + 2 * da)); };
    auto const rank = world.rank();
    bool const right =
        mesh.shape() == shape && mesh.size() == 16 && mesh.pipeline_rank() == 0 && rank == at(t, c, e, d) &&
        ranks_of(mesh.tensor, rank) == std::vector{at(0, c, e, d), at(1, c, e, d)} &&
        ranks_of(mesh.context, rank) == std::vector{at(t, 0, e, d), at(t, 1, e, d)} &&
        ranks_of(mesh.expert, rank) == std::vector{at(t, c, 0, d), at(t, c, 1, d)} &&
        ranks_of(mesh.data, rank) == std::vector{at(t, c, e, 0), at(t, c, e, 1)} &&
        ranks_of(mesh.pipeline, rank) == std::vector{rank} &&
        ranks_of(mesh.batch, rank) == std::vector{at(t, c, 0, 0), at(t, c, 1, 0), at(t, c, 0, 1), at(t, c, 1, 1)} &&
        mesh.batch.rank() == d * 2 + e && mesh.replicas.size() == 8 &&
        mesh.replicas.rank() == mesh.batch.rank() * 2 + c;
    std::lock_guard lock(mutex);
    CHECK(right);
    places.insert({t, c, e, d});
  });
  CHECK(places.size() == 16);
  threads::run(6, [&](threads& world) {
    comm::mesh<threads> mesh(world, {.data = 3, .pipeline = 2});
    if (mesh.pipeline_rank() != world.rank() / 3 || mesh.data_rank() != world.rank() % 3)
      throw error(errc::comm_failed, "");
  });
}

TEST_CASE("mesh: a shape that does not make up the world") {
  std::string said;
  try {
    threads::run(3, [](threads& world) { comm::mesh<threads>(world, {.data = 2, .tensor = 2}); });
  } catch (argument_error const& e) {
    said = e.what();
  }
  CHECK(said ==
        "the mesh data=2,tensor=2 takes 4 ranks, and there are 3. Fix: start 4 ranks, or choose axes whose product is "
        "3.");
  comm::self one;
  CHECK_THROWS_AS((comm::mesh<comm::self>(one, {.data = 0})), argument_error);
  CHECK_THROWS_AS((comm::mesh<comm::self>(one, {.tensor = 2})), argument_error);
}

TEST_CASE("mesh: of one rank is known to the compiler") {
  comm::self world;
  comm::mesh<comm::self> const mesh(world, {});
  CHECK(mesh.size() == 1);
  static_assert(decltype(mesh.tensor)::size() == 1);
}
