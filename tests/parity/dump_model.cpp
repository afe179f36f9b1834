// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Writes a model's random weights, an input, its logits, loss and gradients for transformer_parity.py.
//   dump_model gpt2|llama|mixtral FILE
#include <cstdio>
#include <cstring>
#include <string>

#include <tenon/io/safetensors.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/trainer.hpp>

namespace {

using namespace tenon;
constexpr index_t samples = 3, length = 70, vocabulary = 131;

template <class Model>
void dump(std::string const& path, io::safetensors_file::text_map metadata) {
  trainer<Model> t{{.batch = samples, .sequence_length = length, .learning_rate = 0, .threads = 2}};
  // Larger than an initialisation, so that every term of the model matters; biases and norm weights vary too.
  random_stream const noise(7, "parity");
  auto parameters = t.values();  // one after the other, as the list has them
  for (std::size_t i = 0; i < parameters.size(); ++i)
    parameters[i] = std::fma(5.0f, parameters[i] < 0.5f ? parameters[i] : 0.0f, noise.uniform(0, i) * 0.4f - 0.2f) +
                    (parameters[i] >= 0.5f ? 1.0f : 0.0f);
  std::size_t next = 0;
  for (auto const& s : t.parameter_list()) {
    t.write(state_kind::parameters, s, std::span(parameters).subspan(next, std::size_t(s.size())));
    next += std::size_t(s.size());
  }
  std::vector<std::int32_t> tokens, targets;
  for (index_t i = 0; i < samples * length; ++i) {
    tokens.push_back(std::int32_t(noise.word(1, std::uint64_t(i)) % vocabulary));
    targets.push_back(i % 11 == 3 ? -1 : std::int32_t(noise.word(2, std::uint64_t(i)) % vocabulary));
  }
  std::vector<float> logits(std::size_t(samples * length * vocabulary));
  t.all_logits(tokens, matrix(logits.data(), samples * length, vocabulary));
  auto const result = t.step(tokens, targets);
  float const loss = float(result.loss), auxiliary_loss = float(result.auxiliary_loss);

  std::vector<io::tensor_to_write> out;
  auto add = [&](std::string const& name, auto const* data, std::vector<index_t> shape) {
    out.push_back(io::stored_as(name, std::move(shape), data));
  };
  next = 0;
  for (auto const& s : t.parameter_list()) {
    std::vector<index_t> const shape =
        s.kind == nn::parameter_kind::vector ? std::vector<index_t>{s.cols} : std::vector<index_t>{s.rows, s.cols};
    add("parameter." + s.name, parameters.data() + next, shape);
    next += std::size_t(s.size());
    add("gradient." + s.name, t.last_gradients().data() + s.offset, shape);
  }
  add("input.tokens", tokens.data(), {samples, length});
  add("input.targets", targets.data(), {samples, length});
  add("output.logits", logits.data(), {samples, length, vocabulary});
  add("output.loss", &loss, {1});
  add("output.auxiliary_loss", &auxiliary_loss, {1});
  metadata["model"] = Model::name;
  io::write_safetensors(path, out, metadata);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) return std::fputs("usage: dump_model gpt2|llama|mixtral FILE\n", stderr), 2;
  if (std::string(argv[1]) == "gpt2")
    dump<models::gpt2<gpt2_config{.layers = 3, .width = 72, .heads = 3, .context = 80, .vocabulary = vocabulary}>>(
        argv[2], {{"layers", "3"}, {"width", "72"}, {"heads", "3"}});
  else if (std::string(argv[1]) == "mixtral")
    dump<models::mixtral<mixtral_config{.layers = 2,
                                        .width = 96,
                                        .heads = 6,
                                        .kv_heads = 2,
                                        .hidden = 72,
                                        .context = 80,
                                        .vocabulary = vocabulary,
                                        .experts = 5,
                                        .experts_per_token = 2,
                                        .capacity_factor = 1.25f,
                                        .auxiliary_weight = 0.5f}>>(argv[2], {{"layers", "2"},
                                                                              {"heads", "6"},
                                                                              {"kv_heads", "2"},
                                                                              {"rope_base", "10000"},
                                                                              {"window", "0"},
                                                                              {"experts", "5"},
                                                                              {"slots", "2"},
                                                                              {"capacity", "35"},
                                                                              {"auxiliary_weight", "0.5"}});
  else
    dump<models::llama<llama_config{.layers = 3,
                                    .width = 96,
                                    .heads = 6,
                                    .kv_heads = 2,
                                    .hidden = 200,
                                    .context = 80,
                                    .vocabulary = vocabulary,
                                    .qkv_bias = true,
                                    .window = 40}>>(
        argv[2], {{"layers", "3"}, {"heads", "6"}, {"kv_heads", "2"}, {"rope_base", "10000"}, {"window", "40"}});
} catch (std::exception const& e) {
  std::fprintf(stderr, "dump_model: %s\n", e.what());
  return 1;
}
