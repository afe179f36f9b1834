// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <tenon/comm/threads.hpp>
#include <tenon/data/text.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/fit.hpp>

#include "io/scratch_folder.hpp"

using namespace tenon;

namespace {
constexpr gpt2_config shape{.layers = 2, .width = 64, .heads = 4, .context = 16, .vocabulary = 256};
/// Moments are whole on each rank, parameters that blocks read are rounded, gradients are summed behind two micro-batches.
using trainer_type = trainer<models::gpt2<>, comm::threads, precision::bf16_mixed, data<dynamic>, tensor<dynamic>>;

struct run_of_tests {
  scratch_folder folder;
  byte_corpus text;
  run_of_tests() : text({write_text(folder.path)}) {}
  static std::string write_text(std::filesystem::path const& where) {
    auto const name = (where / "text.txt").string();
    std::ofstream out(name);
    for (int i = 0; i < 60; ++i) out << "the tenon fits the mortise. ";
    return name;
  }
  /// Trains and leaves receipts in a folder of this name.
  void fit(std::string const& name, char const* mesh, fit_options o = {}) {
    auto const degrees = comm::parse_mesh(mesh);
    if (o.steps == 0) o.steps = 4;
    o.receipts = path(name) / "receipts";
    if (o.resume || o.checkpoint_every) o.out = path(name);
    comm::threads::run(int(degrees.size()), [&](comm::threads& world) {
      trainer_type t{world,
                     shape,
                     {.batch = 4, .accumulate = degrees.data == 2 ? 2 : 1, .threads = 1, .mesh = degrees}};
      tenon::fit(t, text, o);
    });
  }
  std::filesystem::path path(std::string const& name) const { return folder.path / name; }
  receipt::comparison compare(std::string const& run, std::string const& again, index_t from = 1,
                              index_t to = 4) const {
    return receipt::compare(path(run) / "receipts", path(again) / "receipts", from, to);
  }
};
/// The number of the first item of a step that is this, in the receipts of a rank.
std::size_t item_of(std::filesystem::path const& run, int rank, index_t step, std::string const& event,
                    std::string const& tensor, index_t layer = 0) {
  auto const lines = receipt::detail::read_lines(run / "receipts" / receipt::rank_file(rank), step, step);
  auto const& items = lines.at(step).at("items");
  for (std::size_t i = 0; i < items.size(); ++i)
    if (items[i][0] == event && items[i][3] == tensor && items[i][2] == layer) return i;
  FAIL("no such item: " << event << " " << tensor);
  return 0;
}
}  // namespace

TEST_CASE("receipts: every mesh leaves the same, and a run that is the same agrees item by item") {
  run_of_tests t;
  t.fit("alone", "data=1"), t.fit("again", "data=1"), t.fit("data", "data=2"), t.fit("tensor", "tensor=2");
  for (char const* other : {"again", "data", "tensor"}) {
    auto const c = t.compare("alone", other);
    CHECK_FALSE(c.first);
    CHECK(c.hashes > 500);
    CHECK(c.ranks == (std::string(other) == "again"));
  }
  CHECK_THROWS_WITH_AS(t.compare("alone", "data", 4, 9), doctest::Contains("no receipt of step 5"), file_error);
  std::filesystem::resize_file(t.path("data") / "receipts" / "steps.jsonl", 100);
  CHECK_THROWS_WITH_AS(t.compare("data", "alone"), doctest::Contains("no receipt of step 0"), file_error);
  CHECK_THROWS_WITH_AS(receipt::recorded_steps(t.path("nowhere")), doctest::Contains("there are no receipts"),
                       file_error);
}

TEST_CASE("receipts: a flipped bit is found on its rank, in its step, layer or tensor") {
  run_of_tests t;
  t.fit("good", "data=2"), t.fit("alone", "data=1");
  struct sought {
    std::string event, tensor;
    index_t layer;
  };
  for (auto const& what :
       {sought{"forward", "", 0}, sought{"backward", "", 1}, sought{"gradient", "h.1.mlp.c_fc.weight", 0},
        sought{"gradient_sum", "h.0.ln_1.bias", 0}, sought{"reduced", "wte.weight", 0},
        sought{"spread", "h.1.attn.c_proj.weight", 0}, sought{"after", "second.h.0.mlp.c_proj.weight", 0}}) {
    CAPTURE(what.event);
    receipt::flip const fault{1, 3, item_of(t.path("good"), 1, 3, what.event, what.tensor, what.layer), 5, 22};
    auto const name = "bad " + what.event;
    t.fit(name, "data=2", {.fault = fault});
    auto const c = t.compare(name, "good");
    REQUIRE(c.first);
    CHECK(c.first->step == 3);
    CHECK(c.first->ranks == std::vector<int>{1});
    CHECK(c.first->event == what.event);
    CHECK(c.first->tensor == what.tensor);
    CHECK(c.first->layer == what.layer);
    CHECK(c.first->sentence.find("on rank 1 was") != std::string::npos);
    auto const other = t.compare(name, "alone");
    REQUIRE(other.first);
    CHECK(other.first->step <= 4);  // what this rank alone has is seen when it is used
    CHECK(other.first->ranks.empty());
  }
  t.fit("bad layer", "tensor=2", {.fault = receipt::flip{0, 2, 1, 5, 14, true}});
  t.fit("good layer", "tensor=2");
  auto const c = t.compare("bad layer", "good layer");
  REQUIRE(c.first);
  CHECK(c.first->layer == 0);  // which read what the embedding had given
  CHECK(c.first->event == "forward");
}

TEST_CASE("receipts: memory that changes between steps ends the run, and nothing is saved") {
  run_of_tests t;
  t.fit("good", "data=2");
  for (std::string const tensor :
       {"h.1.mlp.c_fc.weight", "first.wte.weight", "second.h.0.ln_1.weight", "rounded.ln_f.bias"}) {
    CAPTURE(tensor);
    receipt::flip const fault{1, 2, item_of(t.path("good"), 1, 2, "after", tensor), 7, 3, true};
    CHECK_THROWS_WITH_AS(t.fit(tensor, "data=2", {.checkpoint_every = 1, .fault = fault}),
                         doctest::Contains(("step 3: on rank 1 " + tensor).c_str()), error);
    CHECK(list_checkpoints(t.path(tensor)).back().filename() == "step-00000002");
    CHECK(receipt::recorded_steps(t.path(tensor) / "receipts").second == 2);
  }
}

TEST_CASE("receipts: a run goes on in the same files on another mesh, and a damaged checkpoint is noticed") {
  run_of_tests t;
  t.fit("whole", "data=1");
  t.fit("run", "data=2", {.steps = 3, .checkpoint_every = 2});
  std::filesystem::remove_all(t.path("run") / "step-00000003");
  std::ofstream(t.path("run") / "receipts" / "steps.jsonl", std::ios::app) << "{\"step\":4,\"me";  // killed
  t.fit("run", "data=1", {.steps = 4, .resume = true});
  CHECK(receipt::recorded_steps(t.path("run") / "receipts") == std::pair<index_t, index_t>{0, 4});
  auto const c = t.compare("run", "whole");
  CHECK_FALSE(c.first);
  CHECK(c.steps == 5);

  // As if a bit had flipped between the hash and the checkpoint.
  t.fit("other", "data=1", {.steps = 2, .checkpoint_every = 2});
  auto const file = t.path("run") / "receipts" / "steps.jsonl";
  std::string lines((std::istreambuf_iterator<char>(std::ifstream(file).rdbuf())), {});
  auto const step = lines.find("{\"step\":2"), digit = lines.find("\"first\":[\"", step) + 12;
  lines[digit] = lines[digit] == '0' ? '1' : '0';
  std::ofstream(t.path("other") / "receipts" / "steps.jsonl") << lines;
  CHECK_THROWS_WITH_AS(t.fit("other", "data=1", {.steps = 4, .resume = true}),
                       doctest::Contains("after step 2 (first)"), error);
}
