// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What weights and shapes are called in Hugging Face folders and in GGUF files, and how their values differ.
/// @source the modeling files of transformers; gguf-py/gguf/tensor_mapping.py and conversion/ of llama.cpp
/// @test tests/models/names_test.cpp
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace tenon::models {

/// Architectures whose weights have the same names, one bit each.
enum name_family : unsigned { llama_names = 1, qwen_names = 2, gemma_names = 4, gpt2_names = 8, bert_names = 16 };

/// An architecture as config.json has it, and as GGUF does.
struct architecture_name {
  std::string_view model_type, hf_class, gguf;
  unsigned family;
};
/// The first line of a GGUF name is what it becomes in a config.json.
inline constexpr architecture_name architecture_names[] = {
    {"llama", "LlamaForCausalLM", "llama", llama_names},
    {"mistral", "MistralForCausalLM", "llama", llama_names},
    {"mixtral", "MixtralForCausalLM", "llama", llama_names},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", qwen_names},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", qwen_names},
    {"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3moe", qwen_names},
    {"gemma3_text", "Gemma3ForCausalLM", "gemma3", gemma_names},
    {"gpt2", "GPT2LMHeadModel", "gpt2", gpt2_names},
    {"bert", "BertModel", "bert", bert_names},
};

/// A number of a model's shape; GGUF puts the architecture and a dot before its name.
struct shape_name {
  unsigned families;
  std::string_view hf, gguf;
  bool is_real = false, may_lack = false;
};
inline constexpr shape_name shape_names[] = {
    {23, "max_position_embeddings", "context_length"},
    {23, "hidden_size", "embedding_length"},
    {23, "num_hidden_layers", "block_count"},
    {23, "intermediate_size", "feed_forward_length"},
    {23, "num_attention_heads", "attention.head_count"},
    {7, "num_key_value_heads", "attention.head_count_kv"},
    {7, "head_dim", "attention.key_length"},
    {7, "head_dim", "attention.value_length"},
    {7, "rms_norm_eps", "attention.layer_norm_rms_epsilon", true},
    {7, "rope_theta", "rope.freq_base", true},
    {5, "sliding_window", "attention.sliding_window", false, true},
    {1, "vocab_size", "vocab_size", false, true},
    {1, "num_local_experts", "expert_count", false, true},
    {2, "num_experts", "expert_count", false, true},
    {3, "num_experts_per_tok", "expert_used_count", false, true},
    {2, "moe_intermediate_size", "expert_feed_forward_length", false, true},
    {8, "n_positions", "context_length"},
    {8, "n_embd", "embedding_length"},
    {8, "n_layer", "block_count"},
    {8, "n_inner", "feed_forward_length"},
    {8, "n_head", "attention.head_count"},
    {8, "layer_norm_epsilon", "attention.layer_norm_epsilon", true},
    {16, "layer_norm_eps", "attention.layer_norm_epsilon", true},
};

/// How the values of a weight in a GGUF file are made of those in a Hugging Face folder.
enum class weight_change {
  none,
  one_added,    ///< norms of Gemma multiply by 1 + weight, in GGUF by the weight
  query_pairs,  ///< rotary features i and i + d/2 of a query head become the rows 2 i and 2 i + 1
  key_pairs,    ///< the same of key heads
  transposed,   ///< GPT-2 has its matrices [in, out] (those that tenon trains are [out, in] already)
  left_out      ///< a buffer, or of a head that nobody asks
};

/// `#` stands for the number of a layer; ".weight" or ".bias" follows. The number of an expert is left out: GGUF has the
/// experts of a layer in one tensor, one below the other.
struct weight_name {
  unsigned families;
  std::string_view hf, gguf;
  weight_change change = weight_change::none;
};
inline constexpr weight_name weight_names[] = {
    {7, "model.embed_tokens", "token_embd"},
    {15, "lm_head", "output"},
    {3, "model.norm", "output_norm"},
    {3, "model.layers.#.input_layernorm", "blk.#.attn_norm"},
    {1, "model.layers.#.self_attn.q_proj", "blk.#.attn_q", weight_change::query_pairs},
    {1, "model.layers.#.self_attn.k_proj", "blk.#.attn_k", weight_change::key_pairs},
    {6, "model.layers.#.self_attn.q_proj", "blk.#.attn_q"},
    {6, "model.layers.#.self_attn.k_proj", "blk.#.attn_k"},
    {7, "model.layers.#.self_attn.v_proj", "blk.#.attn_v"},
    {7, "model.layers.#.self_attn.o_proj", "blk.#.attn_output"},
    {2, "model.layers.#.self_attn.q_norm", "blk.#.attn_q_norm"},
    {2, "model.layers.#.self_attn.k_norm", "blk.#.attn_k_norm"},
    {3, "model.layers.#.post_attention_layernorm", "blk.#.ffn_norm"},
    {7, "model.layers.#.mlp.gate_proj", "blk.#.ffn_gate"},
    {7, "model.layers.#.mlp.up_proj", "blk.#.ffn_up"},
    {7, "model.layers.#.mlp.down_proj", "blk.#.ffn_down"},
    {1, "model.layers.#.block_sparse_moe.gate", "blk.#.ffn_gate_inp"},
    {1, "model.layers.#.block_sparse_moe.experts.w1", "blk.#.ffn_gate_exps"},
    {1, "model.layers.#.block_sparse_moe.experts.w3", "blk.#.ffn_up_exps"},
    {1, "model.layers.#.block_sparse_moe.experts.w2", "blk.#.ffn_down_exps"},
    {2, "model.layers.#.mlp.gate", "blk.#.ffn_gate_inp"},
    {2, "model.layers.#.mlp.experts.gate_proj", "blk.#.ffn_gate_exps"},
    {2, "model.layers.#.mlp.experts.up_proj", "blk.#.ffn_up_exps"},
    {2, "model.layers.#.mlp.experts.down_proj", "blk.#.ffn_down_exps"},
    {7, "model.layers.#.self_attn.rotary_emb.inv_freq", "", weight_change::left_out},
    {4, "model.norm", "output_norm", weight_change::one_added},
    {4, "model.layers.#.input_layernorm", "blk.#.attn_norm", weight_change::one_added},
    {4, "model.layers.#.self_attn.q_norm", "blk.#.attn_q_norm", weight_change::one_added},
    {4, "model.layers.#.self_attn.k_norm", "blk.#.attn_k_norm", weight_change::one_added},
    {4, "model.layers.#.post_attention_layernorm", "blk.#.post_attention_norm", weight_change::one_added},
    {4, "model.layers.#.pre_feedforward_layernorm", "blk.#.ffn_norm", weight_change::one_added},
    {4, "model.layers.#.post_feedforward_layernorm", "blk.#.post_ffw_norm", weight_change::one_added},
    {8, "wte", "token_embd"},
    {8, "wpe", "position_embd"},
    {8, "ln_f", "output_norm"},
    {8, "h.#.ln_1", "blk.#.attn_norm"},
    {8, "h.#.attn.c_attn", "blk.#.attn_qkv", weight_change::transposed},
    {8, "h.#.attn.c_proj", "blk.#.attn_output", weight_change::transposed},
    {8, "h.#.ln_2", "blk.#.ffn_norm"},
    {8, "h.#.mlp.c_fc", "blk.#.ffn_up", weight_change::transposed},
    {8, "h.#.mlp.c_proj", "blk.#.ffn_down", weight_change::transposed},
    {8, "h.#.attn", "", weight_change::left_out},  // its "bias" is the causal mask
    {8, "h.#.attn.masked_bias", "", weight_change::left_out},
    {16, "embeddings.word_embeddings", "token_embd"},
    {16, "embeddings.position_embeddings", "position_embd"},
    {16, "embeddings.token_type_embeddings", "token_types"},
    {16, "embeddings.LayerNorm", "token_embd_norm"},
    {16, "encoder.layer.#.attention.self.query", "blk.#.attn_q"},
    {16, "encoder.layer.#.attention.self.key", "blk.#.attn_k"},
    {16, "encoder.layer.#.attention.self.value", "blk.#.attn_v"},
    {16, "encoder.layer.#.attention.output.dense", "blk.#.attn_output"},
    {16, "encoder.layer.#.attention.output.LayerNorm", "blk.#.attn_output_norm"},
    {16, "encoder.layer.#.intermediate.dense", "blk.#.ffn_up"},
    {16, "encoder.layer.#.output.dense", "blk.#.ffn_down"},
    {16, "encoder.layer.#.output.LayerNorm", "blk.#.layer_output_norm"},
    {16, "embeddings.position_ids", "", weight_change::left_out},
    {16, "pooler.dense", "", weight_change::left_out},
};

/// Null for an architecture that is not in the table.
inline architecture_name const* find_architecture_by_gguf(std::string_view name) {
  for (auto const& a : architecture_names)
    if (a.gguf == name) return &a;
  return nullptr;
}
inline architecture_name const* find_architecture_by_model_type(std::string_view name) {
  for (auto const& a : architecture_names)
    if (a.model_type == name) return &a;
  return nullptr;
}

struct renamed_weight {
  std::string name;
  weight_change change;
  int expert = -1;  ///< the tensor has all of a layer, and this is the number of the one meant; -1: it has none
};

namespace detail {

/// `name` read by the pattern `from` and written by `to`, if it fits.
inline std::optional<std::string> rename(std::string_view name, std::string_view from, std::string_view to) {
  auto const cut = [](std::string_view pattern) {
    auto const at = pattern.find('#');
    return std::pair(pattern.substr(0, at), at == pattern.npos ? std::string_view() : pattern.substr(at + 1));
  };
  auto const [begin, end] = cut(from);
  if (name.substr(0, begin.size()) != begin) return {};
  name.remove_prefix(begin.size());
  std::string_view number;
  if (begin.size() != from.size()) {
    number = name.substr(0, name.find_first_not_of("0123456789"));
    if (number.empty()) return {};
    name.remove_prefix(number.size());
    if (name.substr(0, end.size()) != end) return {};
    name.remove_prefix(end.size());
  }
  if (!(name.empty() || name == ".weight" || name == ".bias")) return {};
  auto const [left, right] = cut(to);
  return std::string(left) + std::string(number) + std::string(right) + std::string(name);
}

}  // namespace detail

/// What names of weights begin with in some folders.
inline constexpr std::string_view whole_model_prefixes[] = {"", "transformer.", "language_model.", "bert."};

namespace detail {
/// Takes the number of an expert out of a name, if there is one.
inline int take_expert(std::string& name) {
  constexpr std::string_view before = ".experts.";
  auto const at = name.find(before);
  if (at == name.npos) return -1;
  auto const begin = at + before.size(), end = name.find_first_not_of("0123456789", begin);
  if (end == begin || end == name.npos || end > begin + 6) return -1;
  int const number = std::stoi(name.substr(begin, end - begin));
  name.erase(begin, end + 1 - begin);
  return number;
}
}  // namespace detail

/// What the weight is called in GGUF; nothing when the architecture has no such weight.
inline std::optional<renamed_weight> gguf_weight_name(architecture_name const& a, std::string_view hf) {
  for (std::string_view const prefix : whole_model_prefixes)
    if (hf.substr(0, prefix.size()) == prefix) hf.remove_prefix(prefix.size());
  std::string whole(hf);
  int const expert = detail::take_expert(whole);
  for (auto const& w : weight_names)
    if (w.families & a.family)
      if (auto name = detail::rename(whole, w.hf, w.gguf)) return renamed_weight{std::move(*name), w.change, expert};
  return {};
}
/// The reverse.
inline std::optional<renamed_weight> hf_weight_name(architecture_name const& a, std::string_view gguf) {
  for (auto const& w : weight_names)
    if (w.families & a.family && !w.gguf.empty())
      if (auto name = detail::rename(gguf, w.gguf, w.hf)) return renamed_weight{std::move(*name), w.change};
  return {};
}

}  // namespace tenon::models
