// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: TIMEOUT 300
#include <doctest/doctest.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <io/scratch_folder.hpp>
#include <tenon/comm/threads.hpp>
#include <tenon/comm/trace.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/profile/overlap.hpp>
#include <tenon/train/trainer.hpp>

namespace {

using namespace tenon;
constexpr gpt2_config shape{.layers = 6, .width = 128, .heads = 4, .context = 128, .vocabulary = 67};

template <class Trainer>
void step(Trainer& t) {
  std::vector<std::int32_t> tokens(std::size_t(4 * shape.context), 1);
  t.step(tokens, tokens);
}
bool has_within(profile::recorder const& outer, std::string_view phase, profile::recorder const& inner,
                std::string_view operation) {
  return std::any_of(outer.events.begin(), outer.events.end(), [&](profile::event const& o) {
    return o.name == phase && std::any_of(inner.events.begin(), inner.events.end(), [&](profile::event const& i) {
             return i.name == operation && i.begin_ns > o.begin_ns && i.end_ns < o.end_ns;
           });
  });
}

}  // namespace

TEST_CASE("gradients are reduced while backward computes") {
  comm::threads::run(2, [](comm::threads& world) {
    trainer<models::gpt2<shape>, comm::threads, data<2>, zero<1>> t{world, {.batch = 4, .threads = 1}};
    profile::rank_recorder r;
    t.record(&r);
    // How threads share processors is up to the system: all ranks go on until all have seen it.
    std::vector<std::int64_t> open{1};
    for (int i = 0; i < 100 && open[0]; ++i) {
      step(t);
      open[0] = !has_within(r.computation, "backward", r.background[0], "reduce_scatter");
      world.sum(open);
    }
    CHECK(open[0] == 0);
    CHECK(profile::overlap(r.computation, r.background[0]).hidden_seconds > 0);
    CHECK(has_within(r.computation, "forward", r.computation, "gemm"));
    t.record(nullptr);
    auto const events = r.background[0].events.size();
    auto const sums = r.communication.events.size();
    step(t);
    CHECK(r.background[0].events.size() == events);
    CHECK(r.communication.events.size() == sums);

    scratch_folder const folder;
    comm::write_trace(world, folder / "trace.json", r);
    if (world.rank() != 0) return;
    auto const trace = nlohmann::json::parse(folder.read("trace.json"));
    for (int rank : {0, 1})
      for (int thread : {0, 1, 2})
        CHECK(std::any_of(trace.at("traceEvents").begin(), trace.at("traceEvents").end(), [&](auto const& e) {
          return e.at("ph") == "X" && e.at("pid") == rank && e.at("tid") == thread;
        }));
  });
}

TEST_CASE("what blocks communicate is recorded, and one rank records no communication") {
  comm::threads::run(2, [](comm::threads& world) {
    trainer<models::gpt2<shape>, comm::threads, context<2, all_to_all>> t{world,
                                                                          {.batch = 4, .accumulate = 4, .threads = 1}};
    profile::rank_recorder r;
    t.record(&r);
    step(t);
    CHECK(r.rank == world.rank());
    CHECK(has_within(r.computation, "forward", r.communication, "all_to_all"));
    t.record(nullptr);
  });
  trainer<models::gpt2<shape>> alone{{.batch = 4, .threads = 1}};
  profile::rank_recorder r;
  alone.record(&r);
  step(alone);
  CHECK(r.communication.events.empty());
  CHECK(r.background[0].events.empty());
  CHECK_FALSE(r.computation.events.empty());
}
