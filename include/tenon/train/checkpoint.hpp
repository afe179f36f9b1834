// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Everything a run is, on disk: parameters and optimizer state as safetensors, the rest as JSON.
///
/// A checkpoint is a folder `step-00000200` with `model.safetensors`, `optimizer.safetensors` and `state.json`. It
/// appears under its name whole or not at all, so a kill or a full disk leaves the older ones as they were.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/core/error.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/io/sha256.hpp>
#include <tenon/nn/parameter.hpp>
#include <tenon/optim/loss_scale.hpp>

namespace tenon {

/// SHA-256 over names, shapes and fp32 bits of all parameters: two runs with the same digest have the same model.
template <class Trainer>
std::string parameters_sha256(Trainer& trainer) {
  io::sha256 hash;
  auto const state = trainer.state();
  for (auto const& spec : trainer.parameter_list()) {
    std::string const header = spec.name + " " + std::to_string(spec.rows) + " " + std::to_string(spec.cols) + "\n";
    hash.update(header.data(), header.size());
    hash.update(state.parameters.data() + spec.offset, std::size_t(spec.size()) * sizeof(float));
  }
  return hash.finish_hex();
}

namespace train {

inline std::vector<index_t> shape_of(nn::parameter_spec const& spec) {
  return spec.kind == nn::parameter_kind::vector ? std::vector<index_t>{spec.cols}
                                                 : std::vector<index_t>{spec.rows, spec.cols};
}
template <class Trainer>
nlohmann::ordered_json describe(Trainer& trainer, std::string const& text) {
  using json = nlohmann::ordered_json;
  auto const state = trainer.state();
  json config;
  auto const& c = trainer.config();
  std::remove_cvref_t<decltype(c)>::for_each_field(c, [&](char const* name, auto value) { config[name] = value; });
  return json{{"format", 1},
              {"model", Trainer::model_type::name},
              {"config", config},
              {"precision", Trainer::set::precision::name},
              {"optimizer", Trainer::set::optimizer::name},
              {"steps", state.steps},
              {"samples", state.samples},
              {"seed", trainer.options().seed},
              {"sequence_length", trainer.options().sequence_length},
              {"text", text},
              {"loss_scale", state.scaler.scale},
              {"loss_scale_good_steps", state.scaler.good_steps}};
}

}  // namespace train

/// Writes `<folder>/step-NNNNNNNN` and returns its path. @param text what the data is, e.g. a digest; compared on load
/// @error file_error: the folder cannot be written, the disk is full; older checkpoints stay
template <class Trainer>
io::path save_checkpoint(Trainer& trainer, io::path const& folder, std::string const& text = "") {
  auto const state = trainer.state();
  char name[32];
  std::snprintf(name, sizeof name, "step-%08td", state.steps);
  io::atomic_folder target(folder / name);
  std::vector<io::tensor_to_write> model, optimizer;
  for (auto const& spec : trainer.parameter_list()) {
    auto const at = [&](std::span<float> buffer) { return buffer.data() + spec.offset; };
    model.push_back(io::stored_as<float>(spec.name, train::shape_of(spec), at(state.parameters)));
    optimizer.push_back(io::stored_as<float>("first." + spec.name, train::shape_of(spec), at(state.first)));
    if (!state.second.empty())
      optimizer.push_back(io::stored_as<float>("second." + spec.name, train::shape_of(spec), at(state.second)));
  }
  io::write_safetensors(target.path() / "model.safetensors", model, {{"format", "pt"}});
  io::write_safetensors(target.path() / "optimizer.safetensors", optimizer);
  io::write_file_atomically(target.path() / "state.json", train::describe(trainer, text).dump(2) + "\n");
  target.commit();
  return folder / name;
}

/// The checkpoints of a folder, oldest first; empty when there is none.
inline std::vector<io::path> list_checkpoints(io::path const& folder) {
  std::vector<io::path> found;
  std::error_code ignored;
  for (std::filesystem::directory_iterator it(folder, ignored), end; !ignored && it != end; it.increment(ignored)) {
    std::string const name = it->path().filename().string();
    if (name.rfind("step-", 0) == 0 && name.size() >= 13 &&
        name.find_first_not_of("0123456789", 5) == std::string::npos)
      found.push_back(it->path());
  }
  std::sort(found.begin(), found.end(), [](io::path const& a, io::path const& b) {
    std::string const x = a.filename().string(), y = b.filename().string();
    return x.size() != y.size() ? x.size() < y.size() : x < y;
  });
  return found;
}

/// Removes all but the newest `kept` checkpoints.
inline void prune_checkpoints(io::path const& folder, std::size_t kept) {
  auto const all = list_checkpoints(folder);
  std::error_code ignored;
  for (std::size_t i = 0; i + kept < all.size(); ++i) std::filesystem::remove_all(all[i], ignored);
}

namespace train {

/// Compares what a checkpoint says of itself with the trainer that reads it; throws with both values and a fix.
template <class Trainer>
void check_same_run(Trainer& trainer, nlohmann::ordered_json const& found, std::string const& text,
                    std::string const& file) {
  auto const expected = describe(trainer, text);
  auto const compare = [&](std::string const& what, auto const& theirs, auto const& ours, char const* fix) {
    if (theirs != ours)
      throw file_error(
          file, what + " is " + theirs.dump() + " in the checkpoint but " + ours.dump() + " in this run. Fix: " + fix);
  };
  compare("format", found.at("format"), expected.at("format"), "read it with the release that wrote it.");
  compare("model", found.at("model"), expected.at("model"),
          "start with the model that the checkpoint is of, or without resuming.");
  for (auto const& [key, value] : expected.at("config").items())
    compare("model shape '" + key + "'", found.at("config").at(key), value,
            "start with the model that the checkpoint is of, or without resuming.");
  for (char const* key : {"precision", "optimizer", "seed", "sequence_length"})
    compare(key, found.at(key), expected.at(key), "use the checkpoint's value, or start without resuming.");
  if (!text.empty() && !found.at("text").get<std::string>().empty())
    compare("text", found.at("text"), expected.at("text"),
            "train on the text that the checkpoint was trained on, or start without resuming.");
}

}  // namespace train

/// Reads a checkpoint folder into a trainer of the same model and policies; the trainer then continues as if it had
/// never stopped. Everything is checked before anything is changed.
/// @error file_error names the file, the field, both values and the fix
template <class Trainer>
void load_checkpoint(Trainer& trainer, io::path const& folder, std::string const& text = "") {
  io::path const description = folder / "state.json";
  io::mapped_file const file(description);
  auto const bytes = file.bytes();
  auto const* begin = reinterpret_cast<char const*>(bytes.data());
  auto const found = nlohmann::ordered_json::parse(begin, begin + bytes.size(), nullptr, false);
  auto const broken = [&](std::string const& why) {
    return file_error(description.string(), "is no checkpoint description of tenon (" + why +
                                                "). Fix: remove the folder to resume from an older checkpoint.");
  };
  if (found.is_discarded() || !found.is_object()) throw broken("not a JSON object");
  optim::loss_scale scaler;
  index_t steps = 0, samples = 0;
  try {
    train::check_same_run(trainer, found, text, description.string());
    steps = found.at("steps").template get<index_t>();
    samples = found.at("samples").template get<index_t>();
    scaler.scale = found.at("loss_scale").template get<float>();
    scaler.good_steps = found.at("loss_scale_good_steps").template get<index_t>();
  } catch (nlohmann::json::exception const&) {
    throw broken("a field is missing or has the wrong type");
  }
  if (steps < 0 || samples < 0 || !(scaler.scale >= 1)) throw broken("a number is out of range");
  io::safetensors_file const model(folder / "model.safetensors"), optimizer(folder / "optimizer.safetensors");
  auto const state = trainer.state();
  struct copy {
    std::span<float const> from;
    float* to;
  };
  std::vector<copy> copies;
  for (auto const& spec : trainer.parameter_list()) {
    auto const shape = train::shape_of(spec);
    copies.push_back({model.values_of<float>(spec.name, shape), state.parameters.data() + spec.offset});
    copies.push_back({optimizer.values_of<float>("first." + spec.name, shape), state.first.data() + spec.offset});
    if (!state.second.empty())
      copies.push_back({optimizer.values_of<float>("second." + spec.name, shape), state.second.data() + spec.offset});
  }
  for (auto const& c : copies) std::copy(c.from.begin(), c.from.end(), c.to);
  state.scaler = scaler;
  state.steps = steps;
  state.samples = samples;
  trainer.restored();
}

}  // namespace tenon
