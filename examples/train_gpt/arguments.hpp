// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What the parts of train_gpt share: the command line, and a run with one precision, compiled once per precision.
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>

namespace train_gpt {

using tenon::index_t;

/// The shapes that --model knows. The vocabulary is that of bytes.
using shape = std::variant<tenon::gpt2_config, tenon::llama_config, tenon::mixtral_config>;
inline std::map<std::string, shape> const& models() {
  using gpt = tenon::gpt2_config;
  using llama = tenon::llama_config;
  using mixtral = tenon::mixtral_config;
  static std::map<std::string, shape> const all{
      {"gpt-tiny", gpt{.layers = 2, .width = 64, .heads = 2, .context = 64, .vocabulary = 256}},
      {"gpt-small", gpt{.layers = 4, .width = 256, .heads = 4, .context = 128, .vocabulary = 256}},
      {"gpt-medium", gpt{.layers = 6, .width = 384, .heads = 6, .context = 256, .vocabulary = 256}},
      {"gpt2-124m", gpt{.layers = 12, .width = 768, .heads = 12, .context = 1024}},
      {"llama-tiny", llama{.layers = 2, .width = 64, .heads = 4, .kv_heads = 2, .context = 64, .vocabulary = 256}},
      {"llama-small", llama{.layers = 4, .width = 256, .heads = 4, .kv_heads = 2, .context = 128, .vocabulary = 256}},
      {"mixtral-tiny",
       mixtral{.layers = 2, .width = 64, .heads = 4, .kv_heads = 2, .context = 64, .vocabulary = 256, .experts = 4}},
  };
  return all;
}

struct arguments {
  std::string model = "gpt-small", precision = "fp32", out, trace, prompt = "// ";
  std::vector<std::string> text;
  index_t steps = 300, batch = 8, accumulate = 1, context = 0, checkpoint_every = 100, evaluate_every = 0,
          sample_tokens = 300;
  std::uint64_t seed = 1;
  int threads = 0;
  float learning_rate = 1e-3f, dropout = 0;
  bool resume = false, json = false, table = false;
};

/// Trains as the arguments say, and prints what came of it. Defined in run_*.cpp.
int run_fp32(arguments const& a);
int run_bf16_mixed(arguments const& a);

}  // namespace train_gpt
