// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <tenon/comm/threads.hpp>
#include <tenon/io/hf_folder.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/train/checkpoint.hpp>
#include <tenon/train/trainer.hpp>

#include <sys/resource.h>

#include "io/scratch_folder.hpp"

using namespace tenon;
namespace fs = std::filesystem;

namespace {
using alone = trainer<models::gpt2<>, precision::fp16_mixed>;
using on_mesh = trainer<models::gpt2<>, precision::fp16_mixed, comm::threads, data<dynamic>, tensor<dynamic>,
                        pipeline<dynamic, one_f_one_b>, zero<1>>;
constexpr gpt2_config shape{.layers = 2, .width = 128, .heads = 8, .context = 16, .vocabulary = 67};
constexpr index_t batch = 8;
train_options options(index_t accumulate, comm::mesh_shape mesh = {}) {
  return {.batch = batch, .accumulate = accumulate, .learning_rate = 1e-3f, .seed = 5, .threads = 1, .mesh = mesh};
}
template <class Trainer>
void step(Trainer& t) {
  std::vector<std::int32_t> tokens, targets;
  for (index_t i = 0; i < batch * shape.context; ++i) {
    tokens.push_back(std::int32_t((i * 7 + t.samples()) % 67));
    targets.push_back(std::int32_t((i * 7 + t.samples() + 3) % 67));
  }
  t.step(tokens, targets);
}
/// Trains `steps` steps on a mesh, from the newest checkpoint of `folder` if there is one, and saves the last.
std::string run_on(fs::path const& folder, comm::mesh_shape mesh, index_t steps) {
  std::string digest;
  comm::threads::run(int(mesh.size()), [&](comm::threads& world) {
    on_mesh t{world, shape, options(mesh.pipeline > 1 ? 4 : 2, mesh)};
    CHECK(load_newest_checkpoint(t, folder, "a text").empty());
    checkpoint_writer<on_mesh> writer(t, folder, "a text");
    while (t.steps() < steps) {
      step(t);
      CHECK(writer.save().filename() == "step-0000000" + std::to_string(t.steps()));
    }
    writer.wait();
    CHECK(t.progress().samples == batch * steps);
    auto const mine = parameters_sha256(t);
    if (world.rank() == 0) digest = mine;
  });
  return digest;
}
std::string run_alone(index_t steps) {
  alone t{shape, options(1)};
  while (t.steps() < steps) step(t);
  return parameters_sha256(t);
}
/// The names of a folder's files.
std::set<std::string> names(fs::path const& folder) {
  std::set<std::string> all;
  for (auto const& entry : fs::directory_iterator(folder)) all.insert(entry.path().filename().string());
  return all;
}
void flip_byte(fs::path const& file, std::uintmax_t at) {
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  f.seekg(std::streamoff(at));
  int const byte = f.get();
  f.seekp(std::streamoff(at));
  f.put(char(byte ^ 1));
}
}  // namespace

TEST_CASE("checkpoint: what any mesh wrote, any mesh goes on from, with the bits of one rank") {
  scratch_folder folder;
  comm::mesh_shape const meshes[] = {{.data = 2},
                                     {.tensor = 4},
                                     {.data = 2, .pipeline = 2},
                                     {},
                                     {.data = 4, .tensor = 2}};
  index_t steps = 0;
  for (auto const& mesh : meshes) {
    ++steps;
    CAPTURE(to_string(mesh));
    CHECK(run_on(folder.path, mesh, steps) == run_alone(steps));
    auto const newest = list_checkpoints(folder.path).back();
    CHECK_NOTHROW(verify_checkpoint(newest));
    // Each rank writes a file or two, and there is the index where Hugging Face's libraries need one.
    auto const files = names(newest);
    CHECK(files.contains("model.safetensors") == (mesh.size() == 1));
    CHECK(files.contains("model.safetensors.index.json") == (mesh.size() > 1));
    CHECK(index_t(files.size()) >= mesh.size() + 2);
    io::hf_folder const weights(newest);
    alone t{shape, options(1)};
    CHECK(weights.names().size() == t.parameter_list().size());
    load_checkpoint(t, newest, "a text");
    std::vector<float> values;
    for (auto const& spec : t.parameter_list()) {
      values.resize(std::size_t(spec.size()));
      t.read(state_kind::parameters, spec, values);
      auto const found = weights.find(spec.name);
      REQUIRE(found);
      CHECK(std::memcmp(found->data, values.data(), values.size() * sizeof(float)) == 0);
    }
  }
  CHECK(names(folder.path) == std::set<std::string>{".lock", "step-00000004", "step-00000005"});
}

TEST_CASE("checkpoint: the older format, in two files, is read") {
  scratch_folder folder;
  alone t{shape, options(1)};
  step(t);
  auto const saved = save_checkpoint(t, folder.path);
  auto state = nlohmann::ordered_json::parse(std::ifstream(saved / "state.json"));
  state.erase("files");
  state.erase("sha256");
  state["format"] = 1;
  std::ofstream(saved / "state.json") << state;
  alone other{shape, options(1)};
  load_checkpoint(other, saved);
  CHECK(parameters_sha256(other) == parameters_sha256(t));
  CHECK(other.steps() == 1);
  CHECK_NOTHROW(verify_checkpoint(saved));
  state["format"] = 3;
  std::ofstream(saved / "state.json") << state;
  CHECK(message_of([&] { load_checkpoint(other, saved); }).find("is of format 3. Fix: read") != std::string::npos);
}

TEST_CASE("checkpoint: whatever is wrong with a file is said, and an older checkpoint serves") {
  scratch_folder folder;
  comm::mesh_shape const two{.data = 2};
  run_on(folder.path, two, 2);
  auto const newest = folder / "step-00000002", older = folder / "step-00000001", whole = folder / "whole";
  fs::copy(newest, whole, fs::copy_options::recursive);
  std::string const first = "model-00001-of-00002.safetensors", second = "optimizer-00002-of-00002.safetensors";
  auto const wrong = [&](char const* what, std::string const& file, std::string const& expected, auto&& change) {
    CAPTURE(what);
    fs::remove_all(newest);
    fs::copy(whole, newest, fs::copy_options::recursive);
    change(newest / file);
    auto const said = message_of([&] { verify_checkpoint(newest); });
    INFO(said);
    CHECK(is_one_sentence(said));
    CHECK(said.rfind((newest / file).string() + ": ", 0) == 0);
    CHECK(said.find(expected) != std::string::npos);
    alone t{shape, options(1)};
    auto const before = parameters_sha256(t);
    CHECK_THROWS_AS(load_checkpoint(t, newest, "a text"), broken_checkpoint);
    CHECK(parameters_sha256(t) == before);
    auto const notices = load_newest_checkpoint(t, folder.path, "a text");
    REQUIRE(notices.size() == 1);
    CHECK(notices[0] == said + " The run goes on from " + (folder.path / "step-00000001").string() + ".");
    CHECK(t.steps() == 1);
    CHECK(parameters_sha256(t) == run_alone(1));
  };
  wrong("missing", first, "is missing", [](auto const& f) { fs::remove(f); });
  wrong("truncated", first, "bytes", [](auto const& f) { fs::resize_file(f, fs::file_size(f) - 1); });
  wrong("emptied", second, "has 0 bytes", [](auto const& f) { fs::resize_file(f, 0); });
  wrong("altered", second, "tensor '", [](auto const& f) { flip_byte(f, fs::file_size(f) - 1); });
  wrong("altered header", first, "", [](auto const& f) { flip_byte(f, 30); });
  wrong("foreign", first, "tensor '",
        [&](auto const& f) { fs::copy_file(older / f.filename(), f, fs::copy_options::overwrite_existing); });
  wrong("index", "model.safetensors.index.json", "not what was written", [](auto const& f) { flip_byte(f, 9); });
  wrong("no state", "state.json", "no such file", [](auto const& f) { fs::remove(f); });
  wrong("cut state", "state.json", "JSON", [](auto const& f) { fs::resize_file(f, 100); });
  wrong("altered state", "state.json", "is not what was written", [](auto const& f) {
    auto state = nlohmann::ordered_json::parse(std::ifstream(f));
    state["samples"] = 17;
    std::ofstream(f) << state.dump(2);
  });
  // All ranks of a mesh say the same, and go on from the same.
  flip_byte(newest / second, 5000);
  comm::threads::run(2, [&](comm::threads& world) {
    on_mesh t{world, shape, options(2, two)};
    CHECK(load_newest_checkpoint(t, folder.path, "a text").size() == 1);
    CHECK(t.steps() == 1);
  });
  fs::remove(older / "state.json");
  alone t{shape, options(1)};
  CHECK(message_of([&] { load_newest_checkpoint(t, folder.path); }).rfind((newest / "state.json").string(), 0) == 0);
  CHECK(t.steps() == 0);
}

TEST_CASE("checkpoint: a disk that is full is told at the next call, on every rank, and nothing is lost") {
  scratch_folder folder;
  auto const before = run_on(folder.path, {.data = 2}, 1);
  ::rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  auto const old_handler = std::signal(SIGXFSZ, SIG_IGN);
  std::vector<std::string> said(2);
  comm::threads::run(2, [&](comm::threads& world) {
    on_mesh t{world, shape, options(2, {.data = 2})};
    load_newest_checkpoint(t, folder.path);
    checkpoint_writer<on_mesh> writer(t, folder.path);
    step(t);
    auto small = limit;
    small.rlim_cur = 100000;
    if (world.rank() == 0) ::setrlimit(RLIMIT_FSIZE, &small);
    world.barrier();
    writer.save();
    said[std::size_t(world.rank())] = message_of([&] { writer.wait(); });
    world.barrier();
    if (world.rank() == 0) ::setrlimit(RLIMIT_FSIZE, &limit);
    world.barrier();
    CHECK(list_checkpoints(folder.path).size() == 1);
    CHECK(names(folder.path) == std::set<std::string>{".lock", "step-00000001"});
    writer.save();  // and the writer goes on once there is room
    writer.wait();
  });
  std::signal(SIGXFSZ, old_handler);
  CHECK(is_one_sentence(said[0]));
  CHECK(said[0].find(".safetensors: cannot write") != std::string::npos);
  CHECK(said[1] == said[0]);
  CHECK(list_checkpoints(folder.path).size() == 2);
  CHECK(run_on(folder.path, {}, 2) == run_alone(2));
}

TEST_CASE("checkpoint: two writers in one folder") {
  scratch_folder folder;
  alone a{shape, options(1)}, b{shape, options(1)};
  {
    checkpoint_writer<alone> first(a, folder.path);
    auto const said = message_of([&] { checkpoint_writer<alone> second(b, folder.path); });
    CHECK(is_one_sentence(said));
    CHECK(said.find(".lock: is locked: process " + std::to_string(::getpid()) + " on ") != std::string::npos);
  }
  checkpoint_writer<alone> second(b, folder.path);
  CHECK(message_of([&] { checkpoint_writer<alone>(b, "/proc/tenon"); }).find("/proc/tenon: ") == 0);
}

TEST_CASE("checkpoint: which stay") {
  scratch_folder folder;
  auto const at = [&](int step) {
    char name[32];
    std::snprintf(name, sizeof name, "step-%08d", step);
    return folder / name;
  };
  auto const left_after = [&](int newest, retention const& kept) {
    for (auto const& c : list_checkpoints(folder.path)) fs::remove_all(c);
    for (int step : {10, 20, 25, 30, 35, 40, 50}) fs::create_directory(at(step));
    prune_checkpoints(at(newest), kept);
    std::string left;
    for (auto const& c : list_checkpoints(folder.path))
      left += (left.empty() ? "" : " ") + std::to_string(std::stoi(c.filename().string().substr(5)));
    return left;
  };
  CHECK(left_after(50, {}) == "40 50");
  CHECK(left_after(50, {1}) == "50");
  CHECK(left_after(50, {0}) == "50");
  CHECK(left_after(50, {9}) == "10 20 25 30 35 40 50");
  CHECK(left_after(50, {2, 20}) == "20 40 50");
  CHECK(left_after(30, {2}) == "25 30 35 40 50");  // what is newer than the good one is not its to remove
  CHECK(left_after(10, {1}) == "10 20 25 30 35 40 50");
  CHECK(folder.count() == 7);
}

TEST_CASE("checkpoint: tensors lie in the copy as they do in their files, from a page on") {
  alone t{shape, options(1)};
  auto const tensors = train::checkpoint_tensors(train::any_trainer(t), 2);
  std::set<std::string> files;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto const& now = tensors[i];
    if (files.insert(now.file).second) {
      CHECK(now.begin % 1024 == 0);
      continue;
    }
    auto const& before = tensors[i - 1];
    CHECK(before.file == now.file);
    CHECK(before.rank == now.rank);
    CHECK(before.name < now.name);
    CHECK(before.begin + before.spec->size() == now.begin);
  }
  CHECK(files.size() == 4);
}

TEST_CASE("checkpoint: shares are even") {
  using train_shares = std::vector<int>;
  CHECK(train::share_out({5, 1, 1, 1, 2}, 2) == train_shares{0, 1, 1, 1, 1});
  CHECK(train::share_out({1, 1, 1}, 5) == train_shares{0, 1, 2});
  CHECK(train::share_out({3, 9, 4}, 1) == train_shares{0, 0, 0});
}
