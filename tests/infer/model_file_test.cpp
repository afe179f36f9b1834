// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <tenon/infer/embedder.hpp>
#include <tenon/infer/engine.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/models/bert.hpp>
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
/// An encoder of six tokens, of which 2 begins a text and 3 ends it.
fs::path encoder() {
  std::vector<nn::parameter_spec> specs;
  nn::binder<float> list(&specs);
  models::bert::network({.layers = 2, .width = 32, .heads = 2, .hidden = 64, .context = 8, .vocabulary = 6}).bind(list);
  std::vector<float> values(std::size_t(list.size()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(float(i * i % 1009));
  std::vector<io::tensor_to_write> tensors;
  for (auto const& s : specs)
    tensors.push_back(
        io::stored_as(s.name, s.kind == nn::parameter_kind::vector ? std::vector{s.cols} : std::vector{s.rows, s.cols},
                      values.data() + s.offset));
  fs::path const folder = fs::temp_directory_path() / "tenon-model-file-test-encoder";
  fs::create_directories(folder);
  io::write_safetensors(folder / "model.safetensors", tensors);
  std::ofstream(folder / "config.json") << R"({"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 32,
    "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 8, "hidden_act": "gelu"})";
  std::ofstream(folder / "tokenizer.json")
      << R"({"model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
    "vocab": {"?": 0, ".": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "##b": 5}}, "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}})";
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

TEST_CASE("a text's vector is the same alone and in company, and has the length 1") {
  embedder<> e(encoder(), {.token_budget = 12, .threads = 2});
  REQUIRE(e.width() == 32);
  auto const words = e.tokens("abb a");
  CHECK(words.ids == std::vector<std::int32_t>{2, 4, 5, 5, 4, 3});
  CHECK(words.left_out == 0);
  auto const many = e.tokens("a a a a a a a a");
  CHECK(many.ids == std::vector<std::int32_t>{2, 4, 4, 4, 4, 4, 4, 3});
  CHECK(many.left_out == 2);
  std::vector<std::vector<std::int32_t>> const texts{words.ids, {4}, many.ids, {2, 1, 0, 3}};
  std::vector<float> together(texts.size() * 32), alone(32);
  e.embed(texts, matrix(together.data(), index_t(texts.size()), 32));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    e.embed({&texts[i], 1}, matrix(alone.data(), 1, 32));
    CHECK(std::memcmp(alone.data(), together.data() + i * 32, 32 * sizeof(float)) == 0);
    double squares = 0;
    for (float v : alone) squares += double(v) * double(v);
    CHECK(squares == doctest::Approx(1).epsilon(1e-6));
  }
}

TEST_CASE("what has no vector is refused") {
  embedder<> e(encoder(), {.threads = 1});
  std::vector<float> out(32);
  auto const embed = [&](std::vector<std::int32_t> text) { e.embed({&text, 1}, matrix(out.data(), 1, 32)); };
  CHECK_THROWS_WITH_AS(embed({}), doctest::Contains("a text has 0 tokens"), argument_error);
  CHECK_THROWS_WITH_AS(embed(std::vector<std::int32_t>(9, 4)), doctest::Contains("9 tokens. Fix: 1 to"),
                       argument_error);
  CHECK_THROWS_WITH_AS(embed({2, 6}), doctest::Contains("the token 6"), argument_error);
  CHECK_THROWS_WITH_AS(embed({-1}), doctest::Contains("the token -1"), argument_error);
  out.resize(31);
  CHECK_THROWS_WITH_AS(e.embed(std::vector<std::vector<std::int32_t>>{{4}}, matrix(out.data(), 1, 31)),
                       doctest::Contains("do not go to a matrix [1, 31]"), argument_error);
  CHECK_THROWS_WITH_AS(embedder<>(encoder(), {.longest = 2}), doctest::Contains("longest is 2"), argument_error);
  CHECK_THROWS_WITH_AS(embedder<>(checkpoint("good", [](auto&, auto const&) {})),
                       doctest::Contains("is a gpt2, which continues texts"), file_error);
  refuses(encoder(), "is a bert, which makes a vector of a text");
}
