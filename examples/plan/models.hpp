// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Models that `plan` knows by name, and those of a config.json.
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/core/error.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>

namespace plan_example {

using tenon::index_t;
using tenon::nn::model_shape;

inline model_shape gpt(index_t layers, index_t width, index_t heads, index_t context = 2048,
                       index_t vocabulary = 51200) {
  return tenon::models::gpt2<>::shape(
      {.layers = layers, .width = width, .heads = heads, .context = context, .vocabulary = vocabulary});
}
inline model_shape llama(index_t layers, index_t width, index_t heads, index_t kv_heads, index_t hidden,
                         index_t context, index_t vocabulary = 32000) {
  return tenon::models::llama<>::shape({.layers = layers,
                                        .width = width,
                                        .heads = heads,
                                        .kv_heads = kv_heads,
                                        .hidden = hidden,
                                        .context = context,
                                        .vocabulary = vocabulary});
}
inline model_shape mixtral(index_t layers, index_t width, index_t heads, index_t hidden, index_t context,
                           index_t vocabulary) {
  return tenon::models::mixtral<>::shape({.layers = layers,
                                          .width = width,
                                          .heads = heads,
                                          .kv_heads = 8,
                                          .hidden = hidden,
                                          .context = context,
                                          .vocabulary = vocabulary});
}

/// @source GPT-2 and GPT-3 papers; Narayanan et al. 2021, arXiv:2104.04473, table 1 (gpt_*); Smith et al. 2022,
/// arXiv:2201.11990 (MT-NLG); Touvron et al. 2023, arXiv:2302.13971 and 2307.09288; Grattafiori et al. 2024,
/// arXiv:2407.21783; Jiang et al. 2024, arXiv:2401.04088. Vocabularies are padded as in the papers' runs.
inline std::vector<std::pair<std::string, model_shape>> const& known_models() {
  static std::vector<std::pair<std::string, model_shape>> const models{
      {"gpt2_124m", gpt(12, 768, 12, 1024, 50304)},
      {"gpt2_355m", gpt(24, 1024, 16, 1024, 50304)},
      {"gpt2_774m", gpt(36, 1280, 20, 1024, 50304)},
      {"gpt2_1558m", gpt(48, 1600, 25, 1024, 50304)},
      {"gpt_1.7b", gpt(24, 2304, 24)},
      {"gpt_3.6b", gpt(30, 3072, 32)},
      {"gpt_7.5b", gpt(36, 4096, 32)},
      {"gpt_18b", gpt(40, 6144, 48)},
      {"gpt_22b", gpt(48, 6144, 64)},
      {"gpt_39b", gpt(48, 8192, 64)},
      {"gpt_76b", gpt(60, 10240, 80)},
      {"gpt_146b", gpt(80, 12288, 96)},
      {"gpt3_175b", gpt(96, 12288, 96)},
      {"gpt_310b", gpt(96, 16384, 128)},
      {"mt_nlg_530b", gpt(105, 20480, 128)},
      {"gpt_1t", gpt(128, 25600, 160)},
      {"llama_7b", llama(32, 4096, 32, 32, 11008, 2048)},
      {"llama_13b", llama(40, 5120, 40, 40, 13824, 2048)},
      {"llama_65b", llama(80, 8192, 64, 64, 22016, 2048)},
      {"llama2_70b", llama(80, 8192, 64, 8, 28672, 4096)},
      {"llama3_8b", llama(32, 4096, 32, 8, 14336, 8192, 128256)},
      {"llama3_70b", llama(80, 8192, 64, 8, 28672, 8192, 128256)},
      {"llama3_405b", llama(126, 16384, 128, 8, 53248, 8192, 128256)},
      {"mixtral_8x7b", mixtral(32, 4096, 32, 14336, 32768, 32000)},
      {"mixtral_8x22b", mixtral(56, 6144, 48, 16384, 65536, 32768)},
  };
  return models;
}

/// A run of the literature: on A100 80GB, 2048 tokens, all of a layer recomputed, 1F1B.
struct published_run {
  char const* model;
  index_t devices, batch;
  int tensor, pipeline;
  double percent;  ///< of the peak
};
/// @source Narayanan et al. 2021, arXiv:2104.04473, table 1; GPT-3: table 2 and section 5.1 (140 TFLOP/s)
inline constexpr published_run published_runs[] = {
    {"gpt_1.7b", 32, 512, 1, 1, 44},        {"gpt_3.6b", 64, 512, 2, 1, 44},      {"gpt_7.5b", 128, 512, 4, 1, 46},
    {"gpt_18b", 256, 1024, 8, 1, 43},       {"gpt_39b", 512, 1536, 8, 2, 44},     {"gpt_76b", 1024, 1792, 8, 4, 45},
    {"gpt_146b", 1536, 2304, 8, 8, 47},     {"gpt3_175b", 1024, 1536, 8, 16, 45}, {"gpt_310b", 1920, 2160, 8, 16, 50},
    {"mt_nlg_530b", 2520, 2520, 8, 35, 52}, {"gpt_1t", 3072, 3072, 8, 64, 52},
};

/// The shape that a file named config.json of the hub gives.
/// @error argument_error names the file and what it lacks
inline model_shape from_config(std::string const& file) {
  auto const refuse = [&](std::string const& what) -> model_shape { throw tenon::argument_error(file + ": " + what); };
  std::ifstream in(file);
  if (!in) return refuse("cannot be read. Fix: the name of a built-in model (see --help) or of a config.json.");
  auto const j = nlohmann::json::parse(in, nullptr, false);
  if (!j.is_object()) return refuse("is no JSON object. Fix: the config.json of a model.");
  auto const number = [&](char const* name, index_t otherwise = -1) {
    auto const at = j.find(name);
    if ((at == j.end() || at->is_null()) && otherwise >= 0) return otherwise;
    if (at == j.end() || !at->is_number_integer() || *at < 0 || *at > 100'000'000)
      refuse(std::string("'") + name + "' is missing or no sensible number. Fix: the config.json of a GPT-2, Llama, " +
             "Mistral, Qwen or Mixtral.");
    return at->get<index_t>();
  };
  auto const checked = [&]<class Config>(char const* problem, Config const& c) {
    if (problem) refuse(problem);
    return c;
  };
  if (j.contains("n_embd")) {
    tenon::gpt2_config const c{.layers = number("n_layer"),
                               .width = number("n_embd"),
                               .heads = number("n_head"),
                               .context = number("n_positions"),
                               .vocabulary = number("vocab_size")};
    return tenon::models::gpt2<>::shape(checked(tenon::models::gpt2<>::problem(c), c));
  }
  tenon::mixtral_config const c{.layers = number("num_hidden_layers"),
                                .width = number("hidden_size"),
                                .heads = number("num_attention_heads"),
                                .kv_heads = number("num_key_value_heads", 0),
                                .hidden = number("intermediate_size"),
                                .context = number("max_position_embeddings"),
                                .vocabulary = number("vocab_size"),
                                .experts = number("num_local_experts", 0),
                                .experts_per_token = number("num_experts_per_tok", 0),
                                .qkv_bias = j.value("model_type", "") == "qwen2",
                                .tied = j.value("tie_word_embeddings", false),
                                .head_width = number("head_dim", 0),
                                .head_norm = j.value("model_type", "") == "qwen3"};
  return tenon::models::mixtral<>::shape(checked(tenon::models::detail::llama_problem(c), c));
}

inline model_shape find_model(std::string const& name) {
  for (auto const& [known, shape] : known_models())
    if (known == name) return shape;
  return from_config(name);
}

}  // namespace plan_example
