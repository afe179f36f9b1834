// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>

#include <tenon/models/names.hpp>

namespace models = tenon::models;
using models::weight_change;

namespace {

models::architecture_name const& architecture(std::string_view gguf) {
  auto const* const a = models::find_architecture_by_gguf(gguf);
  REQUIRE(a);
  return *a;
}
void check_both_ways(std::string_view gguf_architecture, std::string const& hf, std::string const& gguf,
                     weight_change change = weight_change::none) {
  CAPTURE(hf);
  auto const to = models::gguf_weight_name(architecture(gguf_architecture), hf);
  auto const back = models::hf_weight_name(architecture(gguf_architecture), gguf);
  REQUIRE(to);
  REQUIRE(back);
  CHECK(to->name == gguf);
  CHECK(to->change == change);
  CHECK(back->name == hf);
  CHECK(back->change == change);
}

}  // namespace

TEST_CASE("names: of weights, both ways") {
  check_both_ways("llama", "model.embed_tokens.weight", "token_embd.weight");
  check_both_ways("llama", "lm_head.weight", "output.weight");
  check_both_ways("llama", "model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", weight_change::query_pairs);
  check_both_ways("llama", "model.layers.31.self_attn.k_proj.bias", "blk.31.attn_k.bias", weight_change::key_pairs);
  check_both_ways("llama", "model.layers.7.post_attention_layernorm.weight", "blk.7.ffn_norm.weight");
  check_both_ways("qwen2", "model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias");
  check_both_ways("qwen3", "model.layers.3.self_attn.q_norm.weight", "blk.3.attn_q_norm.weight");
  check_both_ways("gemma3", "model.norm.weight", "output_norm.weight", weight_change::one_added);
  check_both_ways("gemma3", "model.layers.12.post_attention_layernorm.weight", "blk.12.post_attention_norm.weight",
                  weight_change::one_added);
  check_both_ways("gemma3", "model.layers.1.pre_feedforward_layernorm.weight", "blk.1.ffn_norm.weight",
                  weight_change::one_added);
  check_both_ways("gemma3", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight");
  check_both_ways("gpt2", "wpe.weight", "position_embd.weight");
  check_both_ways("gpt2", "h.11.attn.c_attn.bias", "blk.11.attn_qkv.bias", weight_change::transposed);
  check_both_ways("gpt2", "h.0.mlp.c_proj.weight", "blk.0.ffn_down.weight", weight_change::transposed);
  check_both_ways("bert", "embeddings.LayerNorm.bias", "token_embd_norm.bias");
  check_both_ways("bert", "encoder.layer.5.attention.output.LayerNorm.weight", "blk.5.attn_output_norm.weight");
}

TEST_CASE("names: of experts, which GGUF has in one tensor") {
  auto const name = [](char const* gguf, char const* hf) { return models::gguf_weight_name(architecture(gguf), hf); };
  CHECK(name("llama", "model.layers.3.block_sparse_moe.gate.weight")->name == "blk.3.ffn_gate_inp.weight");
  CHECK(name("llama", "model.layers.3.block_sparse_moe.gate.weight")->expert == -1);
  auto const down = name("llama", "model.layers.3.block_sparse_moe.experts.12.w2.weight");
  CHECK(down->name == "blk.3.ffn_down_exps.weight");
  CHECK(down->expert == 12);
  CHECK(name("qwen3moe", "model.layers.0.mlp.experts.0.gate_proj.weight")->name == "blk.0.ffn_gate_exps.weight");
  CHECK_FALSE(name("qwen3moe", "model.layers.0.mlp.experts.9999999.gate_proj.weight").has_value());
  CHECK_FALSE(name("llama", "model.layers.0.mlp.experts.0.gate_proj.weight").has_value());
}

TEST_CASE("names: what is no weight, and what is none of the architecture") {
  auto const& gpt2 = architecture("gpt2");
  CHECK(models::gguf_weight_name(gpt2, "transformer.h.2.ln_1.bias")->name == "blk.2.attn_norm.bias");
  CHECK(models::gguf_weight_name(gpt2, "h.2.attn.bias")->change == weight_change::left_out);
  CHECK(models::gguf_weight_name(architecture("bert"), "bert.pooler.dense.weight")->change == weight_change::left_out);
  CHECK(models::gguf_weight_name(gpt2, "h.2.attn.masked_bias")->change == weight_change::left_out);
  for (char const* none : {"", "h", "h.", "h..ln_1.weight", "h.1", "h.1.ln_1.scale", "h.x.ln_1.weight",
                           "xh.1.ln_1.bias", "model.embed_tokens.weight", "wte.weight.weight", "h.1.ln_12.weight"}) {
    CAPTURE(none);
    CHECK_FALSE(models::gguf_weight_name(gpt2, none).has_value());
  }
  CHECK_FALSE(models::hf_weight_name(gpt2, "").has_value());
  CHECK_FALSE(models::hf_weight_name(gpt2, "blk.0.attn_q.weight").has_value());
  CHECK_FALSE(models::hf_weight_name(architecture("llama"), "rope_freqs.weight").has_value());
  CHECK(models::find_architecture_by_gguf("mamba") == nullptr);
  CHECK(models::find_architecture_by_model_type("mistral")->gguf == "llama");
  CHECK(models::find_architecture_by_model_type("t5") == nullptr);
}
