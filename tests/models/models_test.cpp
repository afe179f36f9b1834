// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Names and shapes of parameters as published checkpoints have them. Nothing is computed.
#include <doctest/doctest.h>

#include <map>
#include <string>

#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/policy/arithmetic.hpp>

using namespace tenon;

namespace {
template <class Model>
std::map<std::string, std::pair<index_t, index_t>> shapes(typename Model::config_type const& c) {
  std::vector<nn::parameter_spec> specs;
  nn::binder<float const> b(&specs);
  Model::template network<arithmetic::bitwise>(c).bind(b);
  std::map<std::string, std::pair<index_t, index_t>> all;
  index_t end = 0;
  for (auto const& s : specs) {
    CHECK(s.offset >= end);  // in order, without overlap
    end = s.offset + s.size();
    CHECK(all.emplace(s.name, std::pair(s.rows, s.cols)).second);
  }
  return all;
}
using shape = std::pair<index_t, index_t>;
}  // namespace

TEST_CASE("gpt2: names and shapes") {
  auto const all = shapes<models::gpt2<>>({.layers = 2, .width = 12, .heads = 3, .context = 7, .vocabulary = 50});
  CHECK(all.size() == 2 + 2 * 12 + 2);
  CHECK(all.at("wte.weight") == shape(50, 12));
  CHECK(all.at("wpe.weight") == shape(7, 12));
  CHECK(all.at("h.1.attn.c_attn.weight") == shape(36, 12));
  CHECK(all.at("h.1.attn.c_attn.bias") == shape(1, 36));
  CHECK(all.at("h.0.mlp.c_proj.weight") == shape(12, 48));
  CHECK(all.at("ln_f.bias") == shape(1, 12));
  auto const plain = shapes<models::gpt2<>>({.layers = 1,
                                             .width = 12,
                                             .heads = 3,
                                             .context = 7,
                                             .vocabulary = 50,
                                             .hidden = 20,
                                             .bias = false,
                                             .tied = false});
  CHECK(plain.size() == 2 + 6 + 1 + 1);
  CHECK(plain.at("lm_head.weight") == shape(50, 12));
  CHECK(plain.at("h.0.mlp.c_fc.weight") == shape(20, 12));
}

TEST_CASE("llama: names and shapes, grouped queries") {
  auto const all = shapes<models::llama<>>({.layers = 2,
                                            .width = 24,
                                            .heads = 6,
                                            .kv_heads = 2,
                                            .hidden = 40,
                                            .context = 7,
                                            .vocabulary = 50,
                                            .qkv_bias = true});
  CHECK(all.size() == 1 + 2 * 12 + 2);
  CHECK(all.at("model.layers.1.self_attn.q_proj.weight") == shape(24, 24));
  CHECK(all.at("model.layers.1.self_attn.k_proj.weight") == shape(8, 24));
  CHECK(all.at("model.layers.1.self_attn.v_proj.bias") == shape(1, 8));
  CHECK(all.at("model.layers.0.mlp.gate_proj.weight") == shape(40, 24));
  CHECK(all.at("model.layers.0.mlp.down_proj.weight") == shape(24, 40));
  CHECK(all.at("model.norm.weight") == shape(1, 24));
  CHECK(all.at("lm_head.weight") == shape(50, 24));
}

TEST_CASE("mixtral: names and shapes of the experts, Llama's for the rest; the work of the experts that are used") {
  mixtral_config const c{.layers = 2,
                         .width = 24,
                         .heads = 6,
                         .kv_heads = 2,
                         .hidden = 40,
                         .context = 7,
                         .vocabulary = 50,
                         .experts = 3};
  auto const all = shapes<models::mixtral<>>(c);
  CHECK(all.size() == 1 + 2 * (6 + 1 + 3 * 3) + 2);
  CHECK(all.at("model.layers.1.self_attn.k_proj.weight") == shape(8, 24));
  CHECK(all.at("model.layers.1.post_attention_layernorm.weight") == shape(1, 24));
  CHECK(all.at("model.layers.0.block_sparse_moe.gate.weight") == shape(3, 24));
  CHECK(all.at("model.layers.1.block_sparse_moe.experts.2.w1.weight") == shape(40, 24));
  CHECK(all.at("model.layers.1.block_sparse_moe.experts.2.w3.weight") == shape(40, 24));
  CHECK(all.at("model.layers.1.block_sparse_moe.experts.0.w2.weight") == shape(24, 40));
  auto const mixture = models::mixtral<>::network<arithmetic::bitwise>(c);
  auto const dense = models::llama<>::network<arithmetic::bitwise>(
      {.layers = 2, .width = 24, .heads = 6, .kv_heads = 2, .hidden = 80, .context = 7, .vocabulary = 50});
  CHECK(mixture.step_flops(1, 7) == dense.step_flops(1, 7) + 7 * 6 * 2 * 3 * 24);  // two experts and the router
}

TEST_CASE("the shapes of published models are accepted, others are refused with a sentence") {
  CHECK(models::gpt2_124m::problem(models::gpt2_124m::config) == nullptr);
  CHECK(models::llama<>::problem(
            {.layers = 80, .width = 8192, .heads = 64, .kv_heads = 8, .hidden = 28672, .context = 8192}) == nullptr);
  mixtral_config mixtral{.layers = 32, .width = 4096, .heads = 32, .kv_heads = 8, .hidden = 14336, .context = 4096};
  CHECK(models::mixtral<>::problem(mixtral) == nullptr);
  mixtral.experts_per_token = 9;
  CHECK(std::string(models::mixtral<>::problem(mixtral)).find("experts_per_token") != std::string::npos);
  mixtral.experts_per_token = 2, mixtral.capacity_factor = -1;
  CHECK(std::string(models::mixtral<>::problem(mixtral)).find("capacity_factor") != std::string::npos);
  CHECK(std::string(models::gpt2<>::problem({.layers = 1, .width = 10, .heads = 3, .context = 1})).find("Fix:") !=
        std::string::npos);
  CHECK(models::gpt2<>::problem({}) != nullptr);
  CHECK(models::llama<>::problem({.layers = 1, .width = 24, .heads = 6, .kv_heads = 4, .context = 1}) != nullptr);
  CHECK(models::llama<>::problem({.layers = 1, .width = 9, .heads = 3, .context = 1}) != nullptr);  // odd head width
}

TEST_CASE("leaves of sums: a power of two, of whole head groups or of hidden features, whatever the mesh") {
  auto const net = models::llama<>::network<arithmetic::bitwise>(
      {.layers = 1, .width = 768, .heads = 12, .kv_heads = 4, .hidden = 3072, .context = 64});
  auto const& layer = net.layers.layers[0];
  CHECK(layer.first.inner.projection.in_leaf == 192);
  CHECK(layer.first.inner.qkv.out_pieces[0].leaf == 192);
  CHECK(layer.first.inner.qkv.out_pieces[1].leaf == 64);
  CHECK(layer.second.inner.down.in_leaf == 384);
  auto const gpt = models::gpt2<>::network<arithmetic::bitwise>(models::gpt2_124m::config);
  CHECK(gpt.layers.layers[0].first.inner.projection.in_leaf == 192);  // 12 heads: four leaves of three
  CHECK(gpt.layers.layers[0].first.inner.qkv.out_pieces.size() == 3);
  auto const fast = models::llama<>::network<arithmetic::fast>({.layers = 1, .width = 768, .heads = 12, .context = 64});
  CHECK(fast.layers.layers[0].second.inner.down.in_leaf == 0);
}
