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
#include <tenon/core/parameter.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/io/sha256.hpp>
#include <tenon/optim/loss_scale.hpp>
#include <tenon/parallel/model_state.hpp>

namespace tenon {

using parallel::state_kind;

/// SHA-256 over names, shapes and fp32 bits of all parameters: two runs with the same digest have the same model.
/// Every rank calls it, and every rank is told.
template <class Trainer>
std::string parameters_sha256(Trainer& trainer) {
  io::sha256 hash;
  std::vector<float> values;
  for (auto const& spec : trainer.parameter_list()) {
    std::string const header = spec.name + " " + std::to_string(spec.rows) + " " + std::to_string(spec.cols) + "\n";
    hash.update(header.data(), header.size());
    values.resize(std::size_t(spec.size()));
    trainer.read(state_kind::parameters, spec, values);
    hash.update(values.data(), values.size() * sizeof(float));
  }
  return hash.finish_hex();
}

namespace train {

inline std::vector<index_t> shape_of(parameter_spec const& spec) {
  return spec.kind == parameter_kind::vector ? std::vector<index_t>{spec.cols}
                                             : std::vector<index_t>{spec.rows, spec.cols};
}
template <class Trainer>
nlohmann::ordered_json describe(Trainer& trainer, std::string const& text) {
  using json = nlohmann::ordered_json;
  auto const state = trainer.progress();
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

namespace train {

/// One tensor of a checkpoint: a parameter, or what the optimizer keeps for it.
struct checkpoint_tensor {
  std::string name;
  state_kind kind;
  parameter_spec const* spec;
};
/// What model.safetensors, or optimizer.safetensors, holds, in the order in which it is written.
template <class Trainer>
std::vector<checkpoint_tensor> checkpoint_tensors(Trainer const& trainer, bool optimizer) {
  std::vector<checkpoint_tensor> all;
  for (auto const& spec : trainer.parameter_list()) {
    if (!optimizer) {
      all.push_back({spec.name, state_kind::parameters, &spec});
      continue;
    }
    all.push_back({"first." + spec.name, state_kind::first, &spec});
    if (Trainer::set::optimizer::state_tensors > 1) all.push_back({"second." + spec.name, state_kind::second, &spec});
  }
  std::sort(all.begin(), all.end(), [](auto const& a, auto const& b) { return a.name < b.name; });
  return all;
}
/// Rank 0 writes, tensor by tensor; all ranks give their parts.
template <class Trainer>
void write_tensors(Trainer& trainer, bool optimizer, io::path const& file,
                   io::safetensors_file::text_map const& metadata = {}) {
  auto const all = checkpoint_tensors(trainer, optimizer);
  std::vector<float> values;
  if (trainer.mesh().world.rank() > 0) {
    for (auto const& t : all) {
      values.resize(std::size_t(t.spec->size()));
      trainer.read(t.kind, *t.spec, values);
    }
    return;
  }
  std::vector<io::tensor_to_write> tensors;
  for (auto const& t : all)
    tensors.push_back(
        {t.name, io::dtype_name<float>(), shape_of(*t.spec), nullptr, [&trainer, &t](std::span<std::byte> to) {
           trainer.read(t.kind, *t.spec, {reinterpret_cast<float*>(to.data()), std::size_t(t.spec->size())});
         }});
  io::write_safetensors(file, tensors, metadata);
}

}  // namespace train

/// Writes `<folder>/step-NNNNNNNN` and returns its path. Every rank calls it, rank 0 writes.
/// @param text what the data is, e.g. a digest; compared on load
/// @error file_error: the folder cannot be written, the disk is full; older checkpoints stay
template <class Trainer>
io::path save_checkpoint(Trainer& trainer, io::path const& folder, std::string const& text = "") {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08td", trainer.steps());
  bool const writes = trainer.mesh().world.rank() == 0;
  std::optional<io::atomic_folder> target;
  if (writes) target.emplace(folder / name);
  io::path const to = writes ? target->path() : io::path{};
  train::write_tensors(trainer, false, to / "model.safetensors", {{"format", "pt"}});
  train::write_tensors(trainer, true, to / "optimizer.safetensors");
  if (writes) {
    io::write_file_atomically(to / "state.json", train::describe(trainer, text).dump(2) + "\n");
    target->commit();
  }
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
    if (found.at("config").contains(key))  // an older release did not know all of them
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
  struct part {
    train::checkpoint_tensor tensor;
    std::span<float const> values;
  };
  std::vector<part> parts;
  for (bool in_optimizer : {false, true})
    for (auto const& t : train::checkpoint_tensors(trainer, in_optimizer))
      parts.push_back(
          {t, (in_optimizer ? optimizer : model).template values_of<float>(t.name, train::shape_of(*t.spec))});
  for (auto const& p : parts) trainer.write(p.tensor.kind, *p.tensor.spec, p.values);
  auto const state = trainer.progress();
  state.scaler = scaler;
  state.steps = steps;
  state.samples = samples;
  trainer.restored();
}

}  // namespace tenon
