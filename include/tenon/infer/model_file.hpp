// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file A model on disk, whatever it lies in: its kind, its shape, its weights by the names that models give them.
#include <algorithm>
#include <concepts>
#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/exec/host/context.hpp>
#include <tenon/io/gguf.hpp>
#include <tenon/io/hf_folder.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/io/weight_source.hpp>
#include <tenon/models/bert.hpp>
#include <tenon/models/gemma.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/models/names.hpp>
#include <tenon/nn/stored.hpp>
#include <tenon/ops/host/linear.hpp>
#include <tenon/ops/host/rope.hpp>
#include <tenon/ops/linear.hpp>
#include <tenon/text/byte_vocabulary.hpp>
#include <tenon/text/gguf_vocabulary.hpp>
#include <tenon/text/tokenizer.hpp>
#include <tenon/text/tokenizer_json.hpp>

namespace tenon::infer {

/// An open model: a GGUF file, a folder as Hugging Face lays it out (config.json, safetensors, tokenizer.json), or a
/// checkpoint of a trainer (state.json, model.safetensors). Weights are seen where they lie.
/// @error file_error that names the file, what is wrong with it and what to do
/// @test tests/infer/model_file_test.cpp
class model_file {
 public:
  explicit model_file(std::filesystem::path const& where) : place(where) {
    reading([&] { open(where); });
  }
  model_file(model_file const&) = delete;

  std::filesystem::path const& path() const { return place; }
  models::architecture_name const& architecture() const { return *family; }
  io::gguf_file const* gguf() const { return std::get_if<io::gguf_file>(&files); }

  /// The shape, as the model's config.
  template <class Config>
  Config config() const {
    Config c;
    reading([&] {
      if (!is_checkpoint) return read(c);
      Config::for_each_field(c, [&](char const* name, auto& value) {
        if (shape.contains(name)) value = shape.at(name).template get<std::remove_cvref_t<decltype(value)>>();
      });
    });
    Config::for_each_field(c, [&](char const* name, auto value) {
      if constexpr (std::same_as<decltype(value), index_t>)
        if (value < 0 || value > (std::string_view(name) == "layers" ? most_layers : most_of_a_dimension))
          refuse(std::string("says that '") + name + "' is " + std::to_string(value));
    });
    return c;
  }

  /// What the file has for a weight of the model; nothing when there is no such weight.
  struct found_weight {
    weight_view view;
    models::weight_change change = models::weight_change::none;  ///< that the values still need
  };
  std::optional<found_weight> find(std::string const& name) const {
    if (gguf()) {
      auto const renamed = models::gguf_weight_name(*family, name);
      auto view = renamed ? gguf()->find(renamed->name) : std::nullopt;
      if (!view) return {};
      if (renamed->expert >= 0) {
        auto const& all = gguf()->tensors().at(renamed->name).shape;  // [experts, rows, cols]
        if (all.size() != 3 || renamed->expert >= all[0]) return {};
        *view = {view->format, view->row(renamed->expert * all[1]), all[1], all[2]};
      }
      return found_weight{*view};
    }
    auto const& folder = std::get<io::hf_folder>(files);
    for (std::string_view const prefix : models::whole_model_prefixes)
      if (auto const view = folder.find(std::string(prefix) + name)) {
        auto const renamed = models::gguf_weight_name(*family, name);
        return found_weight{*view, is_checkpoint || !renamed ? models::weight_change::none : renamed->change};
      }
    return {};
  }
  /// The mlps are mixtures of experts.
  bool has_experts() const {
    return find("model.layers.0.block_sparse_moe.gate.weight") || find("model.layers.0.mlp.gate.weight");
  }
  /// What one token needs of the weights. To generate it, all are read but a token table that is not the output matrix
  /// too; of a prompt, each token is multiplied with the layers.
  struct weight_sums {
    double bytes_generating = 0, values_of_layers = 0;
  };
  weight_sums weights_per_token() const {
    weight_sums sums;
    auto const mixture =
        has_experts() ? config<mixtral_config>() : mixtral_config{.experts = 1, .experts_per_token = 1};
    double const used_experts = double(mixture.experts_per_token) / double(mixture.experts);
    auto const add = [&](auto const& source) {
      auto const is_output = [](std::string_view n) { return n == "output.weight" || n == "lm_head.weight"; };
      auto const names = source.names();
      bool const tied = std::none_of(names.begin(), names.end(), is_output);
      for (auto const name : names) {
        auto const w = *source.find(name);
        bool const is_table =
            name == "token_embd.weight" || name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight");
        bool const is_expert = name.find("_exps.") != name.npos || name.find(".experts.") != name.npos;
        double const rows = double(w.rows) * (is_expert ? used_experts : 1);
        if (tied || !is_table) sums.bytes_generating += rows * double(w.row_bytes());
        if (!is_table && !is_output(name)) sums.values_of_layers += rows * double(w.cols);
      }
    };
    if (gguf()) add(*gguf());
    else add(std::get<io::hf_folder>(files));
    return sums;
  }
  /// Makes a network of this shape read the file's weights as they are, GGUF having the rotary pairs of a Llama side by
  /// side, and turn them as slowly as the file says. No expert turns a token away: how many come is no matter of one
  /// request.
  /// @error file_error when rotary positions are scaled in a way that is not supported
  template <class Network>
  void adapt(Network& net) const {
    reading([&] {
      for (auto& layer : net.layers.layers) {
        if constexpr (requires { layer.second.inner.capacity_factor; }) {
          auto& mixture = layer.second.inner;
          mixture.capacity_factor = 0;
          if (family->family == models::qwen_names) {
            layer.second.inner_name = "mlp";
            mixture.up.pieces[0].name = "gate_proj", mixture.up.pieces[1].name = "up_proj";
            mixture.down.pieces[0].name = "down_proj";
          }
        }
        auto& attention = layer.first.inner;
        if (attention.rope.base == 0) continue;
        if (gguf() && family->gguf == "llama") attention.rope.pairing = ops::rope_pairing::interleaved;
        bool const is_local = family->family == models::gemma_names && attention.window != 0;
        if (!is_local) attention.rope.factors = rope_factors(attention.head_width / 2, double(attention.rope.base));
      }
    });
  }
  /// Tokens that end a text or a turn: those the file names, and those that chat models end a turn with.
  std::vector<text::token_id> end_tokens(text::tokenizer const& words) const {
    std::vector<text::token_id> ends;
    auto const add = [&](text::token_id id) {
      if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
    };
    if (gguf()) {
      for (char const* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
        add(gguf()->find_value<text::token_id>(key).value_or(text::no_token));
    } else if (is_checkpoint) {
      add(words.parts().end);
    } else if (auto const eos = shape.find("eos_token_id"); eos != shape.end()) {
      for (auto const& id : eos->is_array() ? *eos : nlohmann::json::array({*eos}))
        if (id.is_number_integer()) add(id.get<text::token_id>());
    }
    for (char const* name : {"<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>"})
      if (auto const id = words.find(name); id != text::no_token && words.is_special(id)) add(id);
    return ends;
  }
  /// What the file of an encoder says of how it takes texts: at most so many tokens of each, and whether the state of the
  /// first one stands for all. @source the folders of sentence-transformers
  struct text_use {
    std::optional<index_t> longest{};
    bool takes_first = false;
  };
  text_use use_of_texts() const {
    text_use use;
    reading([&] {
      constexpr char const* other = "takes neither the mean of a text's states nor the first one";
      if (gguf()) {
        int const kind = gguf()->find_value<int>("bert.pooling_type").value_or(1);
        if (kind > 2) refuse(other);
        return void(use.takes_first = kind == 2);
      }
      auto const part = [&](char const* name) {
        return std::filesystem::exists(place / name) ? io::read_json_object(place / name) : nlohmann::json::object();
      };
      auto const described = part("sentence_bert_config.json");
      auto const most = described.find("max_seq_length");
      if (most != described.end() && most->is_number_integer()) use.longest = most->get<index_t>();
      auto const pooling = part("1_Pooling/config.json");
      use.takes_first = pooling.value("pooling_mode_cls_token", false);
      if (!use.takes_first && !pooling.value("pooling_mode_mean_tokens", true)) refuse(other);
    });
    return use;
  }
  /// A checkpoint without a tokenizer whose vocabulary is 256 reads bytes, as train_gpt trains it.
  /// @error file_error when there is no tokenizer, or it is of a kind that is not supported
  text::tokenizer tokenizer() const {
    if (gguf()) return text::tokenizer(text::read_vocabulary(*gguf()));
    auto const words = place / "tokenizer.json";
    if (is_checkpoint && !std::filesystem::exists(words) && shape.value("vocabulary", index_t(0)) == 256)
      return text::tokenizer(text::byte_vocabulary());
    return text::tokenizer(text::read_tokenizer_json(words));
  }
  /// How its chats are written, as a template in Jinja; empty when the file does not say.
  std::string chat_template() const {
    if (gguf()) return std::string(gguf()->find_value<std::string_view>("tokenizer.chat_template").value_or(""));
    if (auto const own = place / "chat_template.jinja"; std::filesystem::exists(own)) {
      io::mapped_file const content(own);
      return {reinterpret_cast<char const*>(content.bytes().data()), content.bytes().size()};
    }
    auto const words = place / "tokenizer_config.json";
    if (!std::filesystem::exists(words)) return {};
    auto const described = io::read_json_object(words);
    auto const found = described.find("chat_template");
    return found != described.end() && found->is_string() ? found->get<std::string>() : std::string();
  }

 private:
  void open(std::filesystem::path const& where) {
    if (!std::filesystem::is_directory(where)) {
      auto const& file = files.emplace<io::gguf_file>(where);
      std::string const kind(file.get<std::string_view>("general.architecture"));
      family = models::find_architecture_by_gguf(kind);
      if (!family) refuse("is of the architecture '" + kind + "'");
      check_kind();
      return;
    }
    auto const& folder = files.emplace<io::hf_folder>(where);
    if (std::filesystem::exists(where / "state.json")) {
      auto const state = folder.description("state.json");
      std::string const kind = state.value("model", "");
      is_checkpoint = true;
      shape = state.value("config", nlohmann::json::object());
      family = models::find_architecture_by_model_type(kind == "gemma3" ? "gemma3_text" : kind);
      if (!family) refuse("is of the model '" + kind + "'");
    } else {
      shape = folder.description();
      std::string const kind = shape.value("model_type", "");
      family = models::find_architecture_by_model_type(kind);
      if (!family) refuse("is of the model_type '" + kind + "'");
    }
    check_kind();
  }
  /// Calls read(); a value of the wrong type in a description is the file's mistake.
  template <class Read>
  void reading(Read&& read) const {
    try {
      read();
    } catch (nlohmann::json::exception const&) {
      throw file_error(
          place.string(),
          "describes its model with a value of the wrong type. Fix: get its config.json, or state.json, anew.");
    }
  }
  [[noreturn]] void refuse(std::string const& what) const {
    std::string known;
    for (auto const& a : models::architecture_names)
      if (!known.ends_with(a.gguf)) (known.empty() ? known : known += ", ") += a.gguf;
    throw file_error(place.string(), what + ", which is not supported. Fix: a model of the kind " + known + ".");
  }
  /// What config.json says of rotary positions: of those of the layers that see everything, or of the others.
  nlohmann::json rope_description(char const* layers = "full_attention") const {
    for (char const* name : {"rope_parameters", "rope_scaling"})
      if (auto const found = shape.find(name); found != shape.end() && found->is_object())
        return found->value(layers, *found);
    return nlohmann::json::object();
  }
  /// How much slower each pair turns; empty: none does.
  /// @source transformers, modeling_rope_utils.py; llama.cpp has the factors of llama3 in a tensor of the file
  std::vector<float> rope_factors(index_t pairs, double base) const {
    std::string kind;
    double factor = 1;
    nlohmann::json const described = rope_description();
    if (gguf()) {
      std::string const rope = std::string(family->gguf) + ".rope.";
      if (gguf()->find_value<index_t>(rope + "dimension_count").value_or(2 * pairs) != 2 * pairs) refuse(part_of_head);
      if (auto const found = gguf()->find("rope_freqs.weight")) {
        std::vector<float> factors(static_cast<std::size_t>(pairs));
        if (found->format != weight_format::f32 || found->rows * found->cols != pairs)
          refuse("has a rope_freqs.weight that is not one fp32 value per rotary pair");
        std::memcpy(factors.data(), found->data, factors.size() * sizeof(float));
        return factors;
      }
      kind = gguf()->find_value<std::string_view>(rope + "scaling.type").value_or("linear");
      factor = gguf()
                   ->find_value<double>(rope + "scaling.factor")
                   .value_or(gguf()->find_value<double>(rope + "scale_linear").value_or(1));
    } else {
      kind = described.value("rope_type", described.value("type", "default"));
      factor = described.value("factor", 1.0);
    }
    if (kind == "default" || kind == "none" || (kind == "linear" && factor == 1)) return {};
    if (!(factor > 0)) refuse("scales its rotary positions by " + std::to_string(factor));
    std::vector<float> factors(static_cast<std::size_t>(pairs), float(factor));
    if (kind == "llama3") {
      auto const number = [&](char const* name) {
        auto const found = described.find(name);
        if (found == described.end() || !found->is_number())
          refuse(std::string("scales its rotary positions by 'llama3' without the number '") + name + "'");
        return found->template get<double>();
      };
      double const low = number("low_freq_factor"), high = number("high_freq_factor"),
                   context = number("original_max_position_embeddings"), log_base = ops::detail::fixed_log(base);
      if (!(low < high))
        refuse("scales its rotary positions by a low_freq_factor that is not below its high_freq_factor");
      for (std::size_t i = 0; i < factors.size(); ++i) {
        double const turns =
            context * ops::detail::fixed_exp(-log_base * double(i) / double(pairs)) / 6.283185307179586;
        double const smooth = std::clamp((turns - low) / (high - low), 0.0, 1.0);
        factors[i] = float(1 / (smooth + (1 - smooth) / factor));
      }
    } else if (kind != "linear") {
      refuse("scales its rotary positions by '" + kind + "'");
    }
    return factors;
  }
  /// Refuses what a file can ask for and these models do not do.
  void check_kind() const {
    auto const is_its_own = [&](std::string const& activation) {
      if (family->family & (models::llama_names | models::qwen_names)) return activation == "silu";
      if (family->family == models::bert_names) return activation == "gelu";
      return activation == "gelu_pytorch_tanh" || activation == "gelu_new";
    };
    for (char const* name : {"hidden_act", "hidden_activation", "activation_function"})
      if (auto const kind = shape.find(name); kind != shape.end() && kind->is_string() && !is_its_own(*kind))
        refuse(std::string("has the ") + name + " '" + kind->get<std::string>() + "'");
    if (std::string const places = shape.value("position_embedding_type", "absolute"); places != "absolute")
      refuse("has the position_embedding_type '" + places + "'");
    if (find_number("partial_rotary_factor").value_or(1) != 1) refuse(part_of_head);
    if (family->model_type == "qwen3_moe" && !gguf() && !shape.value("norm_topk_prob", false))
      refuse("weighs experts by numbers whose sum is not 1");
    auto const scale = find_number("query_pre_attn_scalar");
    bool const is_27b = gguf() && family->family == models::gemma_names && find_number("num_hidden_layers") == 62;
    if (is_27b || (scale && *scale != find_number("head_dim").value_or(256)))
      refuse("scales queries by another number than their width");
    if (!gguf() && shape.value("use_sliding_window", false) && find_number("max_window_layers").value_or(0) != 0)
      refuse("has a sliding window in some layers");
    if (auto const kinds = shape.find("layer_types"); kinds != shape.end() && family->family == models::gemma_names) {
      auto const pattern = std::size_t(find_number("sliding_window_pattern").value_or(6));
      for (std::size_t i = 0; i < kinds->size(); ++i)
        if (((i + 1) % std::max<std::size_t>(pattern, 1) == 0) != (kinds->at(i) == "full_attention"))
          refuse("has other layers with a window than all but every " + std::to_string(pattern) + "th");
    }
    for (char const* bias : {"self_attn.o_proj.bias", "mlp.down_proj.bias"})
      if (find(std::string("model.layers.0.") + bias)) refuse(std::string("has a ") + bias);
  }
  /// A number of the shape, by its name in config.json.
  std::optional<double> find_number(std::string_view name) const {
    if (!gguf()) {
      auto const value = shape.find(std::string(name));
      return value != shape.end() && value->is_number() ? std::optional(value->get<double>()) : std::nullopt;
    }
    for (auto const& n : models::shape_names)
      if (n.families & family->family && n.hf == name)
        return gguf()->find_value<double>(std::string(family->gguf) + "." + std::string(n.gguf));
    return {};
  }
  double number(char const* name) const {
    if (auto const n = find_number(name)) return *n;
    throw file_error(place.string(), std::string("says no number '") + name +
                                         "' of the model's shape. Fix: use a file of the model that is complete.");
  }
  float rope_base(char const* name, char const* layers, double otherwise) const {
    return float(find_number(name).value_or(rope_description(layers).value("rope_theta", otherwise)));
  }
  index_t count(char const* name) const { return whole(name, number(name)); }
  index_t count(char const* name, index_t otherwise) const {
    return whole(name, find_number(name).value_or(double(otherwise)));
  }
  index_t whole(char const* name, double n) const {
    if (!(n >= 0 && n <= double(most_of_a_dimension)))
      refuse(std::string("says that ") + name + " is " + std::to_string(n));
    return index_t(n);
  }
  index_t rows(char const* table) const {
    auto const found = find(table);
    if (!found)
      throw file_error(place.string(),
                       std::string("has no table '") + table + "'. Fix: use a file of the model that is complete.");
    return found->view.rows;
  }
  void read(gemma3_config& c) const {
    c = {.layers = count("num_hidden_layers"),
         .width = count("hidden_size"),
         .heads = count("num_attention_heads"),
         .kv_heads = count("num_key_value_heads"),
         .head_width = count("head_dim", 256),
         .hidden = count("intermediate_size"),
         .context = count("max_position_embeddings"),
         .vocabulary = rows("model.embed_tokens.weight"),
         .rope_base = rope_base("rope_theta", "full_attention", 1e6),
         .local_rope_base = rope_base("rope_local_base_freq", "sliding_attention", 1e4),
         .window = count("sliding_window"),
         .pattern = count("sliding_window_pattern", 6),
         .epsilon = float(find_number("rms_norm_eps").value_or(1e-6))};
  }
  template <class Config>
  void read_llama(Config& c) const {
    // One by one: nvcc takes the names out of a list whose type is a parameter.
    c.layers = count("num_hidden_layers");
    c.width = count("hidden_size");
    c.heads = count("num_attention_heads");
    c.kv_heads = count("num_key_value_heads", 0);
    c.hidden = count("intermediate_size");
    c.context = count("max_position_embeddings");
    c.vocabulary = rows("model.embed_tokens.weight");
    c.rope_base = rope_base("rope_theta", "full_attention", 1e4);
    c.qkv_bias = find("model.layers.0.self_attn.q_proj.bias").has_value();
    c.tied = !find("lm_head.weight");
    c.epsilon = float(find_number("rms_norm_eps").value_or(1e-6));
    c.head_width = count("head_dim", 0);
    c.head_norm = find("model.layers.0.self_attn.q_norm.weight").has_value();
    bool const windowed = gguf() || shape.value("use_sliding_window", family->model_type == "mistral");
    if (windowed) c.window = count("sliding_window", 0);
  }
  void read(llama_config& c) const { read_llama(c); }
  void read(mixtral_config& c) const {
    read_llama(c);
    c.hidden = count("moe_intermediate_size", c.hidden);
    c.experts = count(family->family == models::qwen_names ? "num_experts" : "num_local_experts");
    c.experts_per_token = count("num_experts_per_tok");
  }
  void read(gpt2_config& c) const {
    c = {.layers = count("n_layer"),
         .width = count("n_embd"),
         .heads = count("n_head"),
         .context = count("n_positions"),
         .vocabulary = rows("wte.weight"),
         .hidden = count("n_inner", 0),
         .tied = !find("lm_head.weight")};
  }
  void read(bert_config& c) const {
    c = {.layers = count("num_hidden_layers"),
         .width = count("hidden_size"),
         .heads = count("num_attention_heads"),
         .hidden = count("intermediate_size"),
         .context = count("max_position_embeddings"),
         .vocabulary = rows("embeddings.word_embeddings.weight"),
         .types = rows("embeddings.token_type_embeddings.weight"),
         .epsilon = float(find_number("layer_norm_eps").value_or(1e-12))};
  }

  static constexpr index_t most_layers = 65536, most_of_a_dimension = index_t(1) << 31;
  static constexpr char const* part_of_head = "turns a part of each head only";
  std::filesystem::path place;
  std::variant<std::monostate, io::gguf_file, io::hf_folder> files;
  models::architecture_name const* family = nullptr;
  nlohmann::json shape = nlohmann::json::object();  ///< of a folder
  bool is_checkpoint = false;
};

/// Calls f(model, config) with the kind of model that the file holds, e.g. models::gemma3<>{}.
template <class F>
auto with_model(model_file const& file, F&& f) {
  switch (file.architecture().family) {
    case models::bert_names:
      throw file_error(file.path().string(),
                       "is a bert, which makes a vector of a text and continues none. Fix: tenon::embedder, or the "
                       "program embed.");
    case models::gemma_names: return f(models::gemma3<>{}, file.config<gemma3_config>());
    case models::gpt2_names: return f(models::gpt2<>{}, file.config<gpt2_config>());
    default:
      if (file.has_experts()) return f(models::mixtral<>{}, file.config<mixtral_config>());
      return f(models::llama<>{}, file.config<llama_config>());
  }
}

/// Weights of a file, for models that are bound to them: matrices where they lie, unless they must be changed; vectors in
/// fp32.
class file_weights final : public nn::weight_source {
 public:
  file_weights(exec::host_context& context, model_file const& from) : exec(context), file(from) {}

  weight_view matrix(std::string const& name, index_t rows, index_t cols) override {
    auto const found = get(name, rows, cols);
    if (found.change != models::weight_change::transposed) return found.view;
    auto const values = decoded(found.view);
    std::vector<float> out(values.size());
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < cols; ++c) out[std::size_t(r * cols + c)] = values[std::size_t(c * rows + r)];
    return {weight_format::f32, reinterpret_cast<std::byte const*>(keep(std::move(out))), rows, cols};
  }
  float const* vector(std::string const& name, index_t size) override {
    auto const found = get(name, 1, size);
    bool const adds = found.change == models::weight_change::one_added;
    bool const aligned = reinterpret_cast<std::uintptr_t>(found.view.data) % alignof(float) == 0;
    if (!adds && aligned && found.view.format == weight_format::f32)
      return reinterpret_cast<float const*>(found.view.data);
    auto values = decoded(found.view);
    if (adds)
      for (float& v : values) v += 1;
    return keep(std::move(values));
  }
  weight_view columns(weight_view whole, index_t first, index_t count) override {
    auto const& layout = layout_of(whole.format);
    if (first % layout.values || count % layout.values)
      throw argument_error("tenon::infer: columns [" + std::to_string(first) + ", " + std::to_string(first + count) +
                           ") of a matrix in " + layout.name + " cut its blocks of " + std::to_string(layout.values) +
                           ". Fix: fewer tensor ranks.");
    weight_view part{whole.format, nullptr, whole.rows, count};
    std::vector<std::byte>& copy = parts.emplace_back(std::size_t(part.rows * part.row_bytes()));
    part.data = copy.data();
    for (index_t r = 0; r < part.rows; ++r)
      std::memcpy(copy.data() + r * part.row_bytes(), whole.row(r) + first / layout.values * layout.bytes,
                  std::size_t(part.row_bytes()));
    return part;
  }
  float const* keep(std::vector<float> values) override { return vectors.emplace_back(std::move(values)).data(); }

 private:
  /// The weights of this name; a matrix of GPT-2 may lie in the file turned.
  model_file::found_weight get(std::string const& name, index_t rows, index_t cols) const {
    auto const found = file.find(name);
    bool const turns = found && found->change == models::weight_change::transposed && rows > 1;  // no bias does
    if (turns) std::swap(rows, cols);
    io::expect_weights(found ? std::optional(found->view) : std::nullopt, file.path().string(), name, rows, cols);
    return *found;
  }
  std::vector<float> decoded(weight_view v) {
    std::vector<float> values(std::size_t(v.rows * v.cols));
    std::vector<std::int32_t> rows(std::size_t(v.rows));
    for (std::size_t r = 0; r < rows.size(); ++r) rows[r] = std::int32_t(r);
    ops::table_rows(exec, ops::table_rows_args{rows, v, tenon::matrix(values.data(), v.rows, v.cols)});
    return values;
  }
  exec::host_context& exec;
  model_file const& file;
  std::deque<std::vector<float>> vectors;
  std::deque<std::vector<std::byte>> parts;
};

}  // namespace tenon::infer
