// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <tenon/data/text.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/fit.hpp>
#include <tenon/train/sample.hpp>

#include "io/scratch_folder.hpp"

using namespace tenon;

namespace {
using trainer_type = trainer<models::gpt2<>, precision::fp16_mixed>;
constexpr gpt2_config shape{.layers = 1, .width = 32, .heads = 2, .context = 16, .vocabulary = 256, .dropout = 0.1f};
train_options options() { return {.batch = 4, .accumulate = 2, .learning_rate = 1e-3f, .seed = 5, .threads = 2}; }

/// A text that repeats, so that a few steps learn it.
std::string write_text(std::filesystem::path const& folder) {
  auto const name = (folder / "text.txt").string();
  std::ofstream out(name);
  for (int i = 0; i < 100; ++i) out << "the tenon fits the mortise. ";
  return name;
}
}  // namespace

TEST_CASE("fit: a stopped and resumed run is the same bits as a whole one, files included") {
  scratch_folder folder;
  byte_corpus const text({write_text(folder.path)});
  trainer_type whole{shape, options()};
  std::vector<index_t> seen;
  auto const result = fit(whole, text, {.steps = 12, .on_step = [&](fit_event const& e) { seen.push_back(e.step); }});
  CHECK(result.steps == 12);
  CHECK(seen.size() == 12);
  CHECK(result.loss < 5.6);
  CHECK(std::isfinite(result.validation_loss));
  auto const out = (folder.path / "run").string();
  for (index_t until : {5, 5, 9, 12}) {
    trainer_type part{shape, options()};
    fit(part, text, {.steps = until, .out = out, .resume = true, .checkpoint_every = 3});
    CHECK(part.steps() == until);
    if (until == 12) CHECK(parameters_sha256(part) == parameters_sha256(whole));
  }
  auto const kept = list_checkpoints(out);
  REQUIRE(kept.size() == 2);
  CHECK(kept.back().filename() == "step-00000012");
  CHECK(read_metrics(out + "/metrics.jsonl").size() == 12);
  CHECK(std::filesystem::file_size(out + "/loss.svg") > 1000);
}

TEST_CASE("fit: the state after each step is kept in memory, and a run that is asked to stop saves itself") {
  scratch_folder folder;
  byte_corpus const text({write_text(folder.path)});
  trainer_type whole{shape, options()}, killed{shape, options()}, stopped{shape, options()}, last{shape, options()};
  fit(whole, text, {.steps = 8});
  auto const out = (folder.path / "run").string(), memory = (folder.path / "memory").string(),
             progress = (folder.path / "progress").string();
  struct kill {};
  auto const dies = [](fit_event const& e) {
    if (e.step == 5) throw kill();
  };
  CHECK_THROWS_AS(fit(killed, text, {.steps = 8, .out = out, .memory = memory, .progress = progress, .on_step = dies}),
                  kill);
  CHECK(list_checkpoints(out).empty());
  index_t told = 0;
  std::ifstream(progress) >> told;
  CHECK(told == 5);

  std::vector<std::string> notices;
  auto const result = fit(stopped, text,
                          {.steps = 8,
                           .out = out,
                           .resume = true,
                           .memory = memory,
                           .stop = [&] { return stopped.steps() == 6; },
                           .on_notice = [&](std::string const& s) { notices.push_back(s); }});
  REQUIRE(notices.size() == 1);
  CHECK((notices[0] == "continues after step 4" || notices[0] == "continues after step 5"));
  CHECK(result.stopped);
  CHECK(result.steps == 6);
  REQUIRE(list_checkpoints(out, memory).size() == 3);  // of two of the same step the one in memory is the newer
  CHECK(list_checkpoints(out, memory)[1].parent_path() == out);
  CHECK(list_checkpoints(out, memory)[2].parent_path() == memory);

  CHECK_FALSE(fit(last, text, {.steps = 8, .out = out, .resume = true}).stopped);
  CHECK(parameters_sha256(last) == parameters_sha256(whole));
}

TEST_CASE("checkpoint: another run's is refused, and nothing is changed") {
  scratch_folder folder;
  trainer_type t{shape, options()};
  auto const saved = save_checkpoint(t, folder.path, "a text");
  auto const before = parameters_sha256(t);
  auto refused = [&](auto& other, char const* text, char const* expected) {
    auto const digest = parameters_sha256(other);
    CHECK_THROWS_WITH_AS(load_checkpoint(other, saved, text), doctest::Contains(expected), file_error);
    CHECK(parameters_sha256(other) == digest);
  };
  auto wider = shape;
  wider.width = 64;
  trainer_type other_shape{wider, options()};
  refused(other_shape, "a text", "'width' is 32 in the checkpoint but 64");
  auto seeded = options();
  seeded.seed = 6;
  trainer_type other_seed{shape, seeded};
  refused(other_seed, "a text", "seed is 5");
  trainer_type same{shape, options()};
  refused(same, "another text", "text is \"a text\"");
  std::filesystem::resize_file(saved / "optimizer.safetensors", 100);
  refused(same, "a text", "optimizer.safetensors");
  std::ofstream(saved / "state.json") << "[]";
  refused(same, "a text", "state.json");
  CHECK(parameters_sha256(t) == before);
}

TEST_CASE("fit: a text that does not suit the model is refused") {
  scratch_folder folder;
  byte_corpus const text({write_text(folder.path)});
  auto small = shape;
  small.vocabulary = 100;
  trainer_type t{small, options()};
  CHECK_THROWS_WITH_AS(fit(t, text, {.steps = 1}), doctest::Contains("vocabulary is 100"), argument_error);
}

TEST_CASE("text is a function of the model, the prompt and the seed") {
  trainer_type t{shape, options()};
  auto const text = generate_text(t, "The", {.tokens = 20, .seed = 3});
  CHECK(text.size() == 23);
  CHECK(text == generate_text(t, "The", {.tokens = 20, .seed = 3}));
  CHECK(text != generate_text(t, "The", {.tokens = 20, .seed = 4}));
  CHECK(generate_text(t, "The", {.tokens = 20, .top_k = 1}) ==
        generate_text(t, "The", {.tokens = 20, .temperature = 0}));
  CHECK_THROWS_AS(generate_text(t, ""), argument_error);
}
