// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Saving everything a run is, and going on from it, on the same mesh or on another.
///
/// Ranks write at the same time, each whole tensors of its own choice of files, from a copy, beside the steps that follow.
/// A checkpoint appears under its name whole or not at all, so a kill or a full disk leaves the older ones as they were.
/// The files: train/checkpoint_files.hpp.   @test tests/train/checkpoint_test.cpp
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <future>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/comm/check.hpp>
#include <tenon/core/arena.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/parameter.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/file_lock.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/io/sha256.hpp>
#include <tenon/optim/loss_scale.hpp>
#include <tenon/parallel/sharding.hpp>
#include <tenon/train/any_trainer.hpp>
#include <tenon/train/checkpoint_files.hpp>

namespace tenon {

namespace train {

template <class World>
std::string parameters_sha256(any_trainer<World> const& trainer) {
  io::sha256 hash;
  std::vector<float> values;
  for (auto const& spec : trainer.parameters) {
    std::string const header = spec.name + " " + std::to_string(spec.rows) + " " + std::to_string(spec.cols) + "\n";
    hash.update(header.data(), header.size());
    values.resize(std::size_t(spec.size()));
    trainer.read(state_kind::parameters, spec, values);
    hash.update(values.data(), values.size() * sizeof(float));
  }
  return hash.finish_hex();
}

inline std::vector<index_t> shape_of(parameter_spec const& spec) {
  return spec.kind == parameter_kind::vector ? std::vector<index_t>{spec.cols}
                                             : std::vector<index_t>{spec.rows, spec.cols};
}
template <class World>
nlohmann::ordered_json describe(any_trainer<World> const& trainer, std::string const& text) {
  using json = nlohmann::ordered_json;
  json config;
  for (auto const& field : trainer.config) std::visit([&](auto value) { config[field.name] = value; }, field.value);
  return json{{"format", checkpoint_files::format},
              {"model", trainer.model},
              {"config", config},
              {"precision", trainer.precision},
              {"optimizer", trainer.optimizer},
              {"steps", trainer.steps},
              {"samples", trainer.samples},
              {"seed", trainer.options.seed},
              {"sequence_length", trainer.options.sequence_length},
              {"text", text},
              {"loss_scale", trainer.scaler.scale},
              {"loss_scale_good_steps", trainer.scaler.good_steps}};
}

/// One tensor of a checkpoint: a parameter, or what the optimizer keeps for it.
struct checkpoint_tensor {
  std::string name;
  state_kind kind;
  parameter_spec const* spec;
  int rank = 0;       ///< writes it
  index_t begin = 0;  ///< where, in values, it begins in the copy of those that this rank writes
  std::string file{};
};
/// All of them, shared out among the ranks: a function of the model, the optimizer and the number of ranks. Those of a
/// file lie in the copy as in the file, from a page on: they go to the disk from there.
template <class World>
std::vector<checkpoint_tensor> checkpoint_tensors(any_trainer<World> const& trainer, int ranks) {
  std::vector<checkpoint_tensor> all;
  std::vector<index_t> sizes;
  for (auto const& spec : trainer.parameters) {
    all.push_back({spec.name, state_kind::parameters, &spec});
    all.push_back({"first." + spec.name, state_kind::first, &spec});
    if (trainer.optimizer_tensors > 1) all.push_back({"second." + spec.name, state_kind::second, &spec});
  }
  for (auto const& t : all) sizes.push_back(t.spec->size());
  auto const rank_of = share_out(sizes, ranks);
  std::map<std::pair<bool, int>, int> number;  // of the file that a rank writes, of each of the two kinds
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].rank = rank_of[i];
    number[{all[i].kind == state_kind::parameters, rank_of[i]}];
  }
  int files[2] = {0, 0};
  for (auto& [key, n] : number) n = ++files[key.first];
  for (auto& t : all) {
    bool const is_model = t.kind == state_kind::parameters;
    char part[32] = "";
    if (files[is_model] > 1)
      std::snprintf(part, sizeof part, "-%05d-of-%05d", number.at({is_model, t.rank}), files[is_model]);
    t.file = std::string(is_model ? "model" : "optimizer") + part + ".safetensors";
  }
  std::sort(all.begin(), all.end(), [](checkpoint_tensor const& a, checkpoint_tensor const& b) {
    return std::tie(a.file, a.name) < std::tie(b.file, b.name);
  });
  std::vector<index_t> ends(static_cast<std::size_t>(ranks));
  for (std::size_t i = 0; i < all.size(); ++i) {
    constexpr index_t page = 4096 / sizeof(float);
    index_t& end = ends[std::size_t(all[i].rank)];
    if (i == 0 || all[i].file != all[i - 1].file) end = (end + page - 1) / page * page;
    all[i].begin = std::exchange(end, end + all[i].spec->size());
  }
  return all;
}

/// Gives every rank the values of the tensors that it writes, from those that own them: a collective of the step's
/// thread. Some MiB at a time, so that this takes no more memory than that.
template <class World>
void gather_snapshot(any_trainer<World> const& trainer, std::vector<checkpoint_tensor> const& tensors,
                     memory_block& copy) {
  using parallel::stretch;
  auto& world = trainer.world;
  auto const ranks = std::size_t(world.size()), me = std::size_t(world.rank());
  std::vector<index_t> sizes(ranks);
  for (auto const& t : tensors)
    sizes[std::size_t(t.rank)] = std::max(sizes[std::size_t(t.rank)], t.begin + t.spec->size());
  if (std::size_t const bytes = std::size_t(sizes[me]) * sizeof(float); copy.size() < bytes) copy = memory_block(bytes);
  auto* const mine = reinterpret_cast<float*>(copy.data());
  index_t const all = *std::max_element(sizes.begin(), sizes.end()),
                piece = std::max<index_t>(index_t(1) << 16, (index_t(1) << 22) / index_t(ranks));
  // A stretch of values under way: where in the receiver's copy, how many, and the values.
  std::vector<std::vector<std::byte>> out(ranks), in(ranks);
  std::vector<index_t> out_bytes(ranks), in_bytes(ranks);
  std::vector<std::span<std::byte const>> sends(ranks);
  std::vector<std::span<std::byte>> receives(ranks);
  auto const exchange = [&](auto& from, auto& to) {
    for (std::size_t r = 0; r < ranks; ++r) {
      sends[r] = std::as_bytes(std::span(from[r]));
      receives[r] = r == me ? std::as_writable_bytes(std::span(from[r])) : std::as_writable_bytes(std::span(to[r]));
    }
    world.all_to_all(sends, receives);
  };
  for (index_t begin = 0; begin < all; begin += piece) {
    stretch const round{begin, std::min(all, begin + piece)};
    for (auto& o : out) o.clear();
    for (auto const& t : tensors) {
      if (parallel::intersection({t.begin, t.begin + t.spec->size()}, round).size() <= 0) continue;
      trainer.for_each_owned(t.kind, *t.spec, [&](index_t there, float const* values, index_t n) {
        stretch const run = parallel::intersection({t.begin + there, t.begin + there + n}, round);
        if (run.size() <= 0) return;
        float const* const from = values + (run.begin - t.begin - there);
        if (std::size_t(t.rank) == me)
          return trainer.pool.for_range(run.size(), index_t(1) << 18, [&](index_t i, index_t end) {
            std::copy(from + i, from + end, mine + run.begin + i);
          });
        auto& to = out[std::size_t(t.rank)];
        index_t const head[2] = {run.begin, run.size()};
        auto const append = [&](auto bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); };
        append(std::as_bytes(std::span(head)));
        append(std::as_bytes(std::span(from, std::size_t(run.size()))));
      });
    }
    if (ranks == 1) continue;
    std::vector<std::span<index_t>> out_words, in_words;
    for (std::size_t r = 0; r < ranks; ++r) {
      out_bytes[r] = index_t(out[r].size());
      out_words.emplace_back(&out_bytes[r], 1);
      in_words.emplace_back(&in_bytes[r], 1);
    }
    exchange(out_words, in_words);
    for (std::size_t r = 0; r < ranks; ++r) in[r].resize(r == me ? 0 : std::size_t(in_bytes[r]));
    exchange(out, in);
    for (auto const& bytes : in)
      for (std::size_t at = 0; at < bytes.size();) {
        index_t head[2];
        std::memcpy(head, bytes.data() + at, sizeof head);
        std::memcpy(mine + head[0], bytes.data() + at + sizeof head, std::size_t(head[1]) * sizeof(float));
        at += sizeof head + std::size_t(head[1]) * sizeof(float);
      }
  }
}

template <class World>
class checkpoint_writer {
 public:
  checkpoint_writer(any_trainer<World> t, io::path out, std::string data, retention const& stays)
      : trainer(std::move(t)), folder(std::move(out)), text(std::move(data)), kept(stays),
        group(trainer.world.split(0, trainer.world.rank())),
        tensors(checkpoint_tensors(trainer, trainer.world.size())) {
    agree([&] {
      if (group.rank() != 0) return;
      std::error_code code;
      std::filesystem::create_directories(folder, code);
      if (code) io::detail::fail(folder, "cannot create the folder", code.value());
      lock.emplace(folder / ".lock", "checkpoints into this folder");
    });
  }
  ~checkpoint_writer() {
    if (writer.joinable() && std::uncaught_exceptions() > exceptions) group.abandon();
    if (writer.joinable()) writer.join();
  }
  checkpoint_writer(checkpoint_writer const&) = delete;
  checkpoint_writer& operator=(checkpoint_writer const&) = delete;

  /// Waits until the checkpoint before is written, copies, and returns the path of this one, `<folder>/step-NNNNNNNN`,
  /// where it will be.
  io::path save() {
    wait();
    gather_snapshot(trainer, tensors, copy);
    state = describe(trainer, text);
    char name[32];
    std::snprintf(name, sizeof name, "step-%08td", trainer.steps);
    target = folder / name;
    if constexpr (requires { World::concurrent(); })
      if (!World::concurrent()) return write(), wait(), target;
    writer = std::thread([this] { write(); });
    return target;
  }
  /// Returns when all that was saved is on the disk.
  void wait() {
    if (writer.joinable()) writer.join();
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  }

 private:
  using json = nlohmann::ordered_json;

  template <class F>
  void agree(F&& part) {
    comm::agree<file_error>(group, part);
  }
  void write() noexcept {
    try {
      write_together();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  void write_together() {
    bool const is_first = group.rank() == 0;
    std::optional<io::atomic_folder> made;
    json files = json::object();
    agree([&] {
      if (is_first) made.emplace(target);
    });
    io::path const to = comm::detail::broadcast_text(group, made ? made->path().string() : "", 0);
    agree([&] { files = write_files(to); });
    for (int r = 1; r < group.size(); ++r) {
      std::string const theirs = comm::detail::broadcast_text(group, r == group.rank() ? files.dump() : "", r);
      if (is_first) files.update(json::parse(theirs));
    }
    agree([&] {
      if (!is_first) return;
      write_index(to, files);
      state["files"] = files;
      io::write_file_atomically(to / "state.json", sealed(state));
      made->commit();
      prune_checkpoints(target, kept);
    });
  }
  /// This rank's; returns what state.json says of them.
  json write_files(io::path const& to) {
    std::map<std::string, std::vector<io::tensor_to_write>> own;
    std::vector<std::span<std::byte const>> bytes;  // of each, in the same order
    for (auto const& t : tensors)
      if (t.rank == group.rank()) {
        auto const* const values = reinterpret_cast<float const*>(copy.data()) + t.begin;
        own[t.file].push_back(io::stored_as(t.name, shape_of(*t.spec), values));
        bytes.push_back(std::as_bytes(std::span(values, std::size_t(t.spec->size()))));
      }
    json files = json::object();
    // Digests while the disk is busy.
    auto digests = std::async(std::launch::async, [&] { return io::sha256_hex_of_each(bytes); });
    for (auto const& [name, content] : own) {
      io::write_safetensors(to / name, content, {{"format", "pt"}});
      files[name] = {{"bytes", std::filesystem::file_size(to / name)},
                     {"header", io::sha256_hex(io::safetensors_file(to / name).header())}};
    }
    auto const of = digests.get();
    for (std::size_t i = 0; auto const& [name, content] : own)
      for (auto const& t : content) files[name]["tensors"][t.name] = of[i++];
    return files;
  }
  /// What Hugging Face's libraries find the tensors of several files by.
  void write_index(io::path const& to, json& files) const {
    if (files.contains("model.safetensors")) return;
    json map = json::object();
    std::size_t bytes = 0;
    for (auto const& t : tensors)
      if (t.kind == state_kind::parameters) {
        map[t.name] = t.file;
        bytes += std::size_t(t.spec->size()) * sizeof(float);
      }
    std::string const name = "model.safetensors.index.json",
                      index = json{{"metadata", {{"total_size", bytes}}}, {"weight_map", map}}.dump(2) + "\n";
    io::write_file_atomically(to / name, index);
    files[name] = {{"bytes", index.size()}, {"header", io::sha256_hex(std::as_bytes(std::span(index)))}};
  }

  any_trainer<World> trainer;
  io::path folder, target;
  std::string text;
  retention kept;
  World group;  // the writing threads'
  std::vector<checkpoint_tensor> tensors;
  memory_block copy;  // of the tensors that this rank writes
  json state;
  std::optional<io::file_lock> lock;
  std::exception_ptr failure;
  int exceptions = std::uncaught_exceptions();
  std::thread writer;
};

/// Compares what a checkpoint says of itself with the trainer that reads it; throws with both values and a fix.
template <class World>
void check_same_run(any_trainer<World> const& trainer, nlohmann::ordered_json const& found, std::string const& text,
                    std::string const& file) {
  auto const expected = describe(trainer, text);
  auto const compare = [&](std::string const& what, auto const& theirs, auto const& ours, char const* fix) {
    if (theirs != ours)
      throw file_error(
          file, what + " is " + theirs.dump() + " in the checkpoint but " + ours.dump() + " in this run. Fix: " + fix);
  };
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

template <class World>
void load_checkpoint(any_trainer<World> const& trainer, io::path const& folder, std::string const& text) {
  auto& world = trainer.world;
  std::optional<checkpoint_files> files;
  comm::agree<broken_checkpoint>(world, [&] {
    files.emplace(folder);
    files->verify(world.rank(), world.size());
  });
  auto const& found = files->state();
  optim::loss_scale scaler;
  index_t steps = 0, samples = 0;
  std::string const description = (folder / "state.json").string();
  char const* const fix = ". Fix: remove the folder to resume from an older checkpoint.";
  try {
    check_same_run(trainer, found, text, description);
    steps = found.at("steps").get<index_t>();
    samples = found.at("samples").get<index_t>();
    scaler.scale = found.at("loss_scale").get<float>();
    scaler.good_steps = found.at("loss_scale_good_steps").get<index_t>();
  } catch (nlohmann::json::exception const&) {
    throw broken_checkpoint(description, std::string("lacks a field, or has one of the wrong type") + fix);
  }
  if (steps < 0 || samples < 0 || !(scaler.scale >= 1))
    throw broken_checkpoint(description, std::string("has a number that is out of range") + fix);
  auto const tensors = checkpoint_tensors(trainer, 1);
  std::vector<std::span<float const>> values;
  for (auto const& t : tensors)
    values.push_back(files->file_of(t.name).template values_of<float>(t.name, shape_of(*t.spec)));
  for (std::size_t i = 0; i < tensors.size(); ++i) trainer.write(tensors[i].kind, *tensors[i].spec, values[i]);
  trainer.scaler = scaler;
  trainer.steps = steps;
  trainer.samples = samples;
  trainer.restored();
}

template <class World>
std::vector<std::string> load_newest_checkpoint(any_trainer<World> const& trainer, io::path const& folder,
                                                std::string const& text, io::path const& other) {
  std::string names;  // rank 0's: ranks may see a folder at different moments
  for (auto const& c : list_checkpoints(folder, other)) names.insert(0, c.string() + "\n");
  names = comm::detail::broadcast_text(trainer.world, names, 0);
  std::vector<std::string> broken;
  while (!names.empty()) {
    std::string const name = names.substr(0, names.find('\n'));
    names.erase(0, name.size() + 1);
    try {
      load_checkpoint(trainer, name, text);
      for (auto& sentence : broken) sentence += " The run goes on from " + name + ".";
      return broken;
    } catch (broken_checkpoint const& e) {
      broken.push_back(e.what());
    }
  }
  if (!broken.empty()) throw broken_checkpoint(broken[0]);
  return broken;
}

}  // namespace train

/// SHA-256 over names, shapes and fp32 bits of all parameters: two runs with the same digest have the same model.
/// Every rank calls it, and every rank is told.
template <class Trainer>
std::string parameters_sha256(Trainer& trainer) {
  return train::parameters_sha256(train::any_trainer(trainer));
}

/// Writes checkpoints of a run beside its steps: `save` copies what a rank writes, and a thread of the rank puts it on
/// the disk. Every rank makes one and calls the same functions. One writer at a time writes into a folder.
///
/// It keeps the memory of one copy of the parameters and optimizer state, shared out among all ranks.
/// @error file_error, at the next call and on every rank: the folder cannot be written, the disk is full, another run
/// writes there; older checkpoints stay   @test tests/train/checkpoint_test.cpp
template <class Trainer>
class checkpoint_writer : public train::checkpoint_writer<typename Trainer::world_type> {
 public:
  /// Both live longer: the trainer, and its world. @param text what the data is, e.g. a digest; compared on load
  checkpoint_writer(Trainer& trainer, io::path folder, std::string text = "", retention const& kept = {})
      : train::checkpoint_writer<typename Trainer::world_type>(train::any_trainer(trainer), std::move(folder),
                                                               std::move(text), kept) {}
};

/// Writes `<folder>/step-NNNNNNNN` and returns its path when it is on the disk; nothing is removed. Every rank calls it.
/// @param text what the data is, e.g. a digest; compared on load
/// @error file_error: the folder cannot be written, the disk is full; older checkpoints stay
template <class Trainer>
io::path save_checkpoint(Trainer& trainer, io::path const& folder, std::string const& text = "") {
  checkpoint_writer<Trainer> writer(trainer, folder, text, {std::size_t(-1)});
  io::path const target = writer.save();
  writer.wait();
  return target;
}

/// Reads a checkpoint folder into a trainer of the same model and policies, on any mesh; the trainer then continues as if
/// it had never stopped. Every rank calls it. Everything is checked before anything is changed: each rank compares its
/// share of the bytes with what was written, then copies what it holds out of the mapped files.
/// @error broken_checkpoint, file_error name the file, the field, both values and the fix; on every rank
template <class Trainer>
void load_checkpoint(Trainer& trainer, io::path const& folder, std::string const& text = "") {
  train::load_checkpoint(train::any_trainer(trainer), folder, text);
}

/// Loads the newest checkpoint of a folder, or of `other`, that is as it was written, if there is any. Every rank calls it. Returns a
/// sentence for each newer one that is broken: the run goes on with the same bits from the older one.
/// @error broken_checkpoint: all are broken; file_error: another run's
template <class Trainer>
std::vector<std::string> load_newest_checkpoint(Trainer& trainer, io::path const& folder, std::string const& text = "",
                                                io::path const& other = {}) {
  return train::load_newest_checkpoint(train::any_trainer(trainer), folder, text, other);
}

}  // namespace tenon
