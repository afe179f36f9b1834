// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a run of the train_gpt programs is: a shape, and what the command line says.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <tenon/comm/mesh.hpp>
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
      // Divisible along every axis of a mesh.
      {"gpt-mesh", gpt{.layers = 6, .width = 128, .heads = 8, .context = 256, .vocabulary = 256}},
      {"mixtral-mesh", mixtral{.layers = 6,
                               .width = 128,
                               .heads = 8,
                               .kv_heads = 8,
                               .hidden = 128,
                               .context = 64,
                               .vocabulary = 256,
                               .experts = 8}},
  };
  return all;
}

struct arguments {
  std::string model = "gpt-small", precision = "fp32", out, trace, prompt = "// ";
  std::vector<std::string> text;
  index_t steps = 300, batch = 8, accumulate = 1, context = 0, checkpoint_every = 100, evaluate_every = 0,
          sample_tokens = 300, keep_every = 0;
  std::size_t keep_checkpoints = 2;
  std::uint64_t seed = 1;
  int threads = 0;
  float learning_rate = 1e-3f, dropout = 0;
  bool resume = false, json = false, table = false, receipts = false;
  std::string flip;  // RANK,STEP,ITEM,ELEMENT,BIT[,behind]
  // How the run is cut over ranks.
  tenon::comm::mesh_shape mesh;
  int zero = 0;
  std::string schedule = "1f1b", exchange = "ring";
  bool sequence_parallel = false;
  // For replay: which steps, from which checkpoint, with receipts where.
  index_t from = 0, to = 0;
  std::string start, receipts_folder;
};

/// Reads the command line; nothing when it asks for help, which is then printed if `prints`.
/// @param mesh what --mesh is by default; without it the program is one for one rank, and has no such flags
/// @param replays the program does steps again, and has flags for which
/// @error argument_error
std::optional<arguments> read_command_line(int argc, char** argv, char const* about,
                                           std::optional<tenon::comm::mesh_shape> mesh = {}, bool prints = true,
                                           bool replays = false);

}  // namespace train_gpt
