// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
// What a model is besides its weights: config.json, or state.json of train_gpt, to the keys of GGUF and back.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>
#include <tenon/io/gguf_writer.hpp>
#include <tenon/io/hf_folder.hpp>
#include <tenon/models/names.hpp>

namespace convert {

using nlohmann::json;
using tenon::index_t;
namespace io = tenon::io;
namespace models = tenon::models;

/// The config.json that a checkpoint of train_gpt would have, from its state.json.
inline json config_of_checkpoint(json const& state, std::string const& file) {
  std::string const model = state.value("model", "");
  bool const is_mixture = model == "mixtral";
  if (model != "gpt2" && model != "llama" && !is_mixture)
    throw tenon::file_error(
        file, "is of a model '" + model + "', which has no GGUF names here. Fix: a gpt2, a llama or a mixtral.");
  auto const& c = state.at("config");
  auto const number = [&](char const* name) { return c.at(name).get<index_t>(); };
  index_t const width = number("width");
  json out{{"vocab_size", number("vocabulary")}, {"tie_word_embeddings", c.at("tied").get<bool>()}};
  if (model == "gpt2") {
    out.update({{"model_type", "gpt2"},
                {"n_positions", number("context")},
                {"n_embd", width},
                {"n_layer", number("layers")},
                {"n_head", number("heads")},
                {"layer_norm_epsilon", 1e-5},
                {"n_inner", number("hidden") ? number("hidden") : 4 * width}});
    return out;
  }
  if (is_mixture)
    out.update({{"num_local_experts", number("experts")}, {"num_experts_per_tok", number("experts_per_token")}});
  out.update({{"model_type", is_mixture                     ? "mixtral"
                             : c.at("qkv_bias").get<bool>() ? "qwen2"
                                                            : "llama"},
              {"max_position_embeddings", number("context")},
              {"hidden_size", width},
              {"num_hidden_layers", number("layers")},
              {"num_attention_heads", number("heads")},
              {"num_key_value_heads", number("kv_heads") ? number("kv_heads") : number("heads")},
              {"intermediate_size", number("hidden")},
              {"rms_norm_eps", c.at("epsilon")},
              {"rope_theta", c.at("rope_base")}});
  if (number("hidden") == 0)
    out["intermediate_size"] = tenon::round_up(tenon::ceil_div(8 * width, index_t(3)), index_t(32));
  if (number("window")) out["sliding_window"] = number("window");
  return out;
}

/// The architecture that a config.json names.
inline models::architecture_name const& architecture_of(json const& config, std::string const& file) {
  std::string const type = config.value("model_type", "");
  if (auto const* const a = models::find_architecture_by_model_type(type)) return *a;
  std::string known;
  for (auto const& a : models::architecture_names) (known.empty() ? known : known += ", ") += a.model_type;
  throw tenon::file_error(file, "is of the model_type '" + type + "', but these can be converted: " + known +
                                    ". Fix: use the model's own converter.");
}

/// Fills in what config.json may leave out.
inline void complete(json& config, models::architecture_name const& a, std::string const& file) {
  auto const set = [&](char const* name, json const& value) {
    if (!config.contains(name) || config[name].is_null()) config[name] = value;
  };
  if (auto const rope = config.find("rope_parameters"); rope != config.end() && rope->is_object()) {
    json const& full = rope->contains("full_attention") ? (*rope)["full_attention"] : *rope;
    if (full.contains("rope_theta")) set("rope_theta", full["rope_theta"]);
    if (full.value("rope_type", "default") != "default") config["rope_scaling"] = full;
  }
  if (json const scaling = config.value("rope_scaling", json()); !scaling.is_null())
    if (auto const kind = scaling.value("rope_type", scaling.value("type", "")); kind != "linear")
      throw tenon::file_error(file, "scales its rotary positions by '" + kind +
                                        "' (rope_scaling), which is not converted. Fix: use the converter of llama.cpp "
                                        "for this model.");
  if (a.family == models::gpt2_names) {
    set("n_inner", config.contains("n_embd") ? 4 * config.at("n_embd").get<index_t>() : index_t(0));
    set("layer_norm_epsilon", 1e-5);
    return;
  }
  if (a.family == models::bert_names) return set("layer_norm_eps", 1e-12);
  bool const is_gemma = a.family == models::gemma_names;
  if (config.contains("num_attention_heads")) {
    if (config["num_attention_heads"].get<index_t>() < 1)
      throw tenon::file_error(file, "has no attention heads. Fix: use the config.json of the model.");
    set("num_key_value_heads", config["num_attention_heads"]);
    if (is_gemma) set("head_dim", 256);
    else if (config.contains("hidden_size"))
      set("head_dim", config["hidden_size"].get<index_t>() / config["num_attention_heads"].get<index_t>());
  }
  set("rope_theta", is_gemma ? 1e6 : 1e4);
  set("rms_norm_eps", 1e-6);
}

/// Puts the shape into the metadata. `config` is complete.
inline void set_shape(io::gguf_metadata& metadata, json const& config, models::architecture_name const& a,
                      std::string const& file) {
  metadata.set("general.architecture", a.gguf);
  for (auto const& n : models::shape_names) {
    if (!(n.families & a.family)) continue;
    auto const value = config.find(std::string(n.hf));
    bool const there = value != config.end() && !value->is_null();
    if (!there && n.may_lack) continue;
    if (!there || !value->is_number())
      throw tenon::file_error(file,
                              "has no number '" + std::string(n.hf) + "'. Fix: use the config.json of the model.");
    std::string const key = std::string(a.gguf) + "." + std::string(n.gguf);
    if (n.is_real) metadata.set(key, value->get<float>());
    else metadata.set(key, value->get<std::uint32_t>());
  }
  if (config.contains("head_dim"))
    metadata.set(std::string(a.gguf) + ".rope.dimension_count", config.at("head_dim").get<std::uint32_t>());
  if (json const scaling = config.value("rope_scaling", json()); !scaling.is_null()) {
    metadata.set(std::string(a.gguf) + ".rope.scaling.type", "linear");
    metadata.set(std::string(a.gguf) + ".rope.scaling.factor", scaling.at("factor").get<float>());
  }
}

/// How an encoder makes one vector of a text, as sentence-transformers writes it down.
inline void set_pooling(io::gguf_metadata& metadata, io::path const& description) {
  json const said = std::filesystem::exists(description) ? io::read_json_object(description) : json::object();
  metadata.set("bert.attention.causal", false);
  metadata.set("bert.pooling_type", std::uint32_t(said.value("pooling_mode_cls_token", false) ? 2 : 1));
}

/// The config.json of a GGUF file.
inline json config_of_gguf(io::gguf_file const& file, models::architecture_name const& a) {
  json config{{"architectures", {a.hf_class}}, {"model_type", a.model_type}};
  for (auto const& n : models::shape_names) {
    std::string const key = std::string(a.gguf) + "." + std::string(n.gguf);
    if (!(n.families & a.family) || !file.metadata().count(key)) continue;
    if (n.is_real) config[std::string(n.hf)] = file.get<float>(key);
    else config[std::string(n.hf)] = file.get<std::int64_t>(key);
  }
  std::string const scaling = std::string(a.gguf) + ".rope.scaling.";
  if (auto const kind = file.find_value<std::string_view>(scaling + "type"); kind && *kind != "none")
    config["rope_scaling"] = {{"rope_type", *kind}, {"factor", file.find_value<float>(scaling + "factor").value_or(1)}};
  if (auto const embedding = file.find("token_embd.weight")) config["vocab_size"] = embedding->rows;
  config["tie_word_embeddings"] = !file.tensors().count("output.weight");
  for (auto const& [hf, key] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"),
                                std::pair("eos_token_id", "tokenizer.ggml.eos_token_id")})
    if (auto const id = file.find_value<std::int64_t>(key)) config[hf] = *id;
  if (a.family == models::gpt2_names) config["activation_function"] = "gelu_new";
  else if (a.family == models::bert_names) config["hidden_act"] = "gelu";
  else if (a.family != models::gemma_names) config["hidden_act"] = "silu";
  else
    config.update({{"hidden_activation", "gelu_pytorch_tanh"},
                   {"query_pre_attn_scalar", config.value("head_dim", 256)},
                   {"rope_local_base_freq", 10000.0},
                   {"sliding_window_pattern", 6}});
  return config;
}

}  // namespace convert
