// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <nlohmann/json.hpp>
#include <tenon/infer/engine.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/trainer.hpp>

using namespace tenon;

namespace {

namespace fs = std::filesystem;
constexpr gpt2_config shape{.layers = 2, .width = 32, .heads = 2, .context = 64, .vocabulary = 67};

/// A checkpoint whose state.json is then changed.
template <class Change>
fs::path checkpoint(std::string const& name, Change&& change) {
  trainer<models::gpt2<shape>> t{{.batch = 1, .threads = 1}};
  fs::path const folder = save_checkpoint(t, fs::temp_directory_path() / ("tenon-model-file-test-" + name));
  auto state = nlohmann::json::parse(std::ifstream(folder / "state.json"));
  change(state, folder);
  std::ofstream(folder / "state.json") << state.dump();
  return folder;
}
void refuses(fs::path const& where, char const* why) {
  CHECK_THROWS_WITH_AS((engine<models::any>{where, {.threads = 1}}), doctest::Contains(why), file_error);
}

}  // namespace

TEST_CASE("a checkpoint is a model") {
  auto const folder = checkpoint("good", [](auto&, auto const&) {});
  infer::model_file const file(folder);
  CHECK(file.architecture().gguf == "gpt2");
  CHECK(file.config<gpt2_config>() == shape);
  REQUIRE(file.find("wte.weight"));
  CHECK(file.find("wte.weight")->view.rows == 67);
  CHECK_FALSE(file.find("h.2.ln_1.weight"));
  CHECK(engine<models::any>{folder, {.threads = 1}}.vocabulary() == 67);
}

TEST_CASE("the chat template of a folder is in a file of its own or beside the tokenizer's settings") {
  auto const folder = checkpoint("chat", [](auto&, auto const& where) {
    for (char const* old : {"tokenizer_config.json", "chat_template.jinja"}) fs::remove(where / old);
  });
  infer::model_file const file(folder);
  CHECK(file.chat_template().empty());
  std::ofstream(folder / "tokenizer_config.json") << R"({"chat_template": "{{ messages }}"})";
  CHECK(file.chat_template() == "{{ messages }}");
  std::ofstream(folder / "chat_template.jinja") << "{{ bos_token }}";
  CHECK(file.chat_template() == "{{ bos_token }}");
}

TEST_CASE("what is no model, or not all of one, is refused with the name of the file") {
  refuses("no/such/file.gguf", "no/such/file.gguf");
  refuses(checkpoint("kind", [](auto& state, auto const&) { state["model"] = "rnn"; }),
          "is of the model 'rnn', which is not supported");
  refuses(checkpoint("layers", [](auto& state, auto const&) { state["config"]["layers"] = 3; }),
          "has no tensor 'h.2.ln_1.weight' of shape [1, 32]");
  refuses(checkpoint("width", [](auto& state, auto const&) { state["config"]["hidden"] = 96; }),
          "tensor 'h.0.mlp.c_fc.weight' has the shape [128, 32], but [96, 32] is expected");
  refuses(checkpoint("type", [](auto& state, auto const&) { state["config"]["width"] = "wide"; }),
          "describes its model with a value of the wrong type");
  refuses(checkpoint("deep", [](auto& state, auto const&) { state["config"]["layers"] = 1000000; }),
          "says that 'layers' is 1000000");
  refuses(checkpoint("large", [](auto& state, auto const&) { state["config"]["vocabulary"] = index_t(1) << 62; }),
          "says that 'vocabulary' is");
  refuses(checkpoint("heads", [](auto& state, auto const&) { state["config"]["heads"] = 5; }),
          "width is not a multiple of heads");
  refuses(checkpoint("weights", [](auto&, auto const& folder) { fs::resize_file(folder / "model.safetensors", 1000); }),
          "model.safetensors");
  CHECK_THROWS_WITH_AS((engine<models::any>{checkpoint("good", [](auto&, auto const&) {}), {.longest = 65}}),
                       doctest::Contains("the model reads 64 tokens"), argument_error);
}
