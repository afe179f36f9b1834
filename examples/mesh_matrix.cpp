// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_parts train_gpt_kernels train_gpt_threads_lines CLI11::CLI11
// Trains a small GPT and a small mixture of experts for a few steps on many meshes, and checks that all end in the same
// bits. Threads are ranks in this process; for MPI it starts train_gpt_mpi under mpirun. With --resume it stops on each
// of twelve meshes and goes on, from its checkpoint, on each.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <tenon/comm/threads.hpp>

#include <unistd.h>

#include "train_gpt/lines.hpp"

namespace {

using tenon::index_t;
using json = nlohmann::ordered_json;

/// Which model a mesh is for: sequences are not cut where there is a mixture, and only a mixture has experts.
enum class kind { any, dense, mixture };
/// Meshes to try, on threads and on MPI ranks.
struct meshes {
  char const* mesh;
  std::vector<int> zero;
  std::vector<index_t> accumulate;
  std::vector<char const*> flags = {};  // further ones of train_gpt_threads
  kind model = kind::any;
  bool quick = true;  // its first number of micro-batches is in the short list
};
/// The batch is 24 sequences. A micro-batch is a power of two of them, and so is what all ranks work on at a time if
/// gradients are reduced after each of several micro-batches (zero 2 and 3, context, expert).
std::vector<meshes> const table{
    {"data=1", {0}, {1, 3, 6, 12}},
    // data and ZeRO
    {"data=2", {0, 1, 2, 3}, {3, 6, 12}},
    {"data=3", {0, 1}, {1, 2, 4}, {}, kind::any, false},
    {"data=3", {2, 3}, {1}, {}, kind::any, false},
    {"data=4", {1, 3}, {3}, {}, kind::any, false},
    {"data=6", {0, 3}, {1}, {}, kind::any, false},
    {"data=8", {0, 1, 2, 3}, {3}, {}, kind::any, false},
    // tensor
    {"tensor=2", {0}, {1, 3}},
    {"tensor=4", {0}, {3}, {}, kind::any, false},
    {"tensor=8", {0}, {1}, {}, kind::any, false},
    {"data=2,tensor=2", {0, 1, 3}, {3}},
    {"data=3,tensor=2", {1}, {1}, {}, kind::any, false},
    {"tensor=2", {0}, {3}, {"--sequence-parallel"}, kind::dense},
    {"data=2,tensor=4", {0}, {3}, {"--sequence-parallel"}, kind::dense, false},
    // pipeline
    {"pipeline=2", {0}, {3, 6}, {"--schedule", "gpipe"}},
    {"pipeline=3", {0}, {3, 6}, {"--schedule", "1f1b"}},
    {"pipeline=3", {0}, {6, 12}, {"--schedule", "interleaved"}},
    {"pipeline=2", {0}, {6, 12}, {"--schedule", "zero_bubble"}},
    {"pipeline=6", {0}, {12}, {"--schedule", "zero_bubble"}, kind::any, false},
    {"data=2,pipeline=3", {1}, {3}, {"--schedule", "1f1b"}, kind::any, false},
    {"data=2,tensor=2,pipeline=2", {1}, {6}, {"--schedule", "1f1b"}},
    // context
    {"context=2", {0}, {24}, {"--exchange", "ring"}, kind::dense},
    {"context=4", {0}, {24}, {"--exchange", "ring"}, kind::dense, false},
    {"data=2,context=2", {0}, {12}, {"--exchange", "all_to_all"}, kind::dense},
    {"data=4,context=2", {3}, {6}, {"--exchange", "ring"}, kind::dense, false},
    {"tensor=2,context=2,pipeline=2", {0}, {24}, {"--schedule", "zero_bubble"}, kind::dense, false},
    // expert
    {"expert=2", {0}, {3, 6}, {}, kind::mixture},
    {"expert=4", {0}, {3}, {}, kind::mixture, false},
    {"expert=8", {0}, {3}, {}, kind::mixture, false},
    {"data=3,expert=2", {1}, {1}, {}, kind::mixture, false},
    {"data=2,expert=2", {1, 3}, {3}, {}, kind::mixture},
    {"tensor=2,expert=2,pipeline=2", {0}, {6}, {"--schedule", "interleaved"}, kind::mixture},
};

struct run {
  std::string mesh, communicator;
  int ranks, zero;
  index_t accumulate;
  std::vector<char const*> flags;

  /// What train_gpt_threads and train_gpt_mpi are told, and more.
  std::vector<std::string> command_line(std::string const& model, std::vector<std::string> const& more = {}) const {
    std::vector<std::string> all{"--model",
                                 model,
                                 "--text",
                                 TENON_SOURCE_DIR "/docs",
                                 "--batch",
                                 "24",
                                 "--steps",
                                 "2",
                                 "--sample-tokens",
                                 "0",
                                 "--json",
                                 "--accumulate",
                                 std::to_string(accumulate),
                                 "--mesh",
                                 mesh,
                                 "--zero",
                                 std::to_string(zero)};
    all.insert(all.end(), flags.begin(), flags.end());
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string name() const {
    std::string text = mesh + ", zero " + std::to_string(zero) + ", accumulate " + std::to_string(accumulate);
    for (char const* f : flags) text.append(" ").append(f);
    return text + " over " + communicator;
  }
};

/// With `quick` the first number of micro-batches of the lines that are for it, and of MPI four ranks.
std::vector<run> list(bool quick, bool mpi, kind model) {
  std::vector<run> all;
  for (std::string const communicator : {"threads", "mpi"})
    for (auto const& m : table) {
      int const ranks = int(tenon::comm::parse_mesh(m.mesh).size());
      if (communicator == "mpi" && (!mpi || ranks == 1 || (quick && ranks != 4))) continue;
      if ((quick && !m.quick) || (m.model != kind::any && m.model != model)) continue;
      for (int zero : m.zero)
        for (index_t n : m.accumulate)
          if (!quick || n == m.accumulate[0]) all.push_back({m.mesh, communicator, ranks, zero, n, m.flags});
    }
  return all;
}

json on_threads(std::vector<std::string> words) {
  std::vector<char*> argv{words[0].data()};
  for (auto& w : words) argv.push_back(w.data());
  auto const a = train_gpt::read_command_line(int(argv.size()), argv.data(), "", tenon::comm::mesh_shape{});
  json summary;
  tenon::comm::threads::run(int(a->mesh.size()), [&](tenon::comm::threads& world) {
    auto mine = train_gpt::train(world, *a);
    if (world.rank() == 0) summary = std::move(mine);
  });
  return summary;
}

std::string const mpi_program = TENON_EXAMPLES_DIR "/train_gpt_mpi";

/// Why there are no MPI ranks here, or nothing.
std::string without_mpi() {
  if (!std::filesystem::exists(mpi_program)) return mpi_program + " was not built";
  if (std::system("command -v mpirun >/dev/null 2>&1") != 0) return "mpirun was not found";
  // Open MPI refuses root and more ranks than cores unless told; others do not read these. No run takes this long.
  for (char const* name :
       {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"})
    setenv(name, "1", 1);
  setenv("MPIEXEC_TIMEOUT", "300", 0);
  return "";
}

json on_mpi(int ranks, std::vector<std::string> const& words) {
  std::string command = "mpirun -np " + std::to_string(ranks) + " '" + mpi_program + "'", output;
  for (auto const& w : words) command.append(" '").append(w).append("'");
  std::FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) throw tenon::error(tenon::errc::comm_failed, "a process could not be started: " + command);
  std::array<char, 4096> part;
  while (std::size_t const n = std::fread(part.data(), 1, part.size(), pipe)) output.append(part.data(), n);
  int const code = pclose(pipe);
  auto const begin = output.find("{\"model\"");
  if (code != 0 || begin == std::string::npos) throw tenon::error(tenon::errc::comm_failed, output + "from " + command);
  return json::parse(output.substr(begin, output.find('\n', begin) - begin));
}

/// All meshes with one model: a list of what they did, and how many different hashes there are.
json try_all(std::string const& model, std::vector<run> const& runs, bool prints) {
  json meshes = json::array();
  std::vector<std::string> hashes;
  bool const on_terminal = isatty(STDERR_FILENO);
  if (prints)
    std::printf("%s\n%-24s %-8s %4s %10s  %-10s %12s %12s\n", model.c_str(), "mesh", "over", "zero", "accumulate",
                "hash", "tokens/s", "bytes sent");
  for (std::size_t i = 0; i < runs.size(); ++i) {
    auto const& r = runs[i];
    if (on_terminal) std::fprintf(stderr, "%zu of %zu: %s\033[K\r", i + 1, runs.size(), r.name().c_str());
    json s;
    try {
      auto const words = r.command_line(model);
      s = r.communicator == "mpi" ? on_mpi(r.ranks, words) : on_threads(words);
    } catch (std::exception const& e) {
      throw tenon::error(tenon::errc::comm_failed, model + " on " + r.name() + ": " + e.what());
    }
    std::string const hash = s.at("parameters_sha256");
    bool const is_new = std::find(hashes.begin(), hashes.end(), hash) == hashes.end();
    if (is_new) hashes.push_back(hash);
    if (is_new && hashes.size() == 2)
      std::fprintf(stderr,
                   "mesh_matrix: %s on %s ends in %.8s, on %s in %.8s. Fix: a sum whose order depends on the mesh.\n",
                   model.c_str(), r.name().c_str(), hash.c_str(), runs[0].name().c_str(), hashes[0].c_str());
    std::string flags;
    for (char const* f : r.flags) flags.append(" ").append(f);
    if (prints) {
      std::printf("%-24s %-8s %4d %10td  %-10.8s %12.0f %12.0f\n", (r.mesh + flags).c_str(), r.communicator.c_str(),
                  r.zero, r.accumulate, hash.c_str(), s.at("tokens_per_second").get<double>(),
                  s.at("bytes_sent_per_step").get<double>());
      std::fflush(stdout);
    }
    meshes.push_back({{"mesh", r.mesh},
                      {"communicator", r.communicator},
                      {"zero", r.zero},
                      {"accumulate", r.accumulate},
                      {"flags", flags},
                      {"tokens_per_second", s.at("tokens_per_second")},
                      {"bytes_sent_per_step", s.at("bytes_sent_per_step")},
                      {"parameters_sha256", hash}});
  }
  if (prints) std::printf("%zu meshes, %zu distinct hashes\n\n", runs.size(), hashes.size());
  return {{"model", model}, {"meshes", meshes}, {"distinct_hashes", hashes.size()}};
}

/// Twelve meshes, every axis among them: saved on one and resumed on another, every pair ends in the same bits.
json try_pairs(bool quick, bool prints) {
  struct mesh {
    char const *axes, *model = nullptr;  // a model that it is for; none: both
    index_t accumulate = 3;
    int zero = 0;
    std::vector<char const*> flags = {};
  };
  char const* const gpt = "gpt-mesh";
  char const* const mixtral = "mixtral-mesh";
  std::vector<mesh> all{{"data=1"},
                        {"data=2", nullptr, 3, 3},
                        {"tensor=2,pipeline=2", nullptr, 6, 1, {"--schedule", "1f1b"}},
                        {"pipeline=3", nullptr, 6, 0, {"--schedule", "interleaved"}},
                        {"data=3", nullptr, 1, 1},
                        {"data=2,tensor=2", nullptr, 3, 1},
                        {"tensor=8", nullptr, 1},
                        {"data=4", nullptr, 3, 2},
                        {"data=6", nullptr, 1, 3},
                        {"pipeline=2", nullptr, 6, 0, {"--schedule", "zero_bubble"}},
                        {"context=2", gpt, 24},
                        {"data=2,context=2", gpt, 12, 0, {"--exchange", "all_to_all"}},
                        {"expert=4", mixtral},
                        {"data=2,expert=2", mixtral, 3, 3}};
  if (quick) all.resize(4);
  auto const folder = std::filesystem::temp_directory_path() / ("mesh_matrix-" + std::to_string(getpid()));
  struct removal {
    std::filesystem::path const& folder;
    ~removal() { std::filesystem::remove_all(folder); }
  } const at_end{folder};
  json models = json::array();
  for (std::string const model : {gpt, mixtral}) {
    std::vector<run> meshes;
    for (auto const& m : all)
      if (!m.model || m.model == model)
        meshes.push_back(
            {m.axes, "threads", int(tenon::comm::parse_mesh(m.axes).size()), m.zero, m.accumulate, m.flags});
    std::vector<std::string> hashes;
    auto const train = [&](run const& r, std::filesystem::path const& out) {
      auto const s = on_threads(
          r.command_line(model, {"--resume", "--out", out.string(), "--checkpoint-every", "1", "--context", "128"}));
      std::string const hash = s.at("parameters_sha256");
      if (std::find(hashes.begin(), hashes.end(), hash) == hashes.end()) hashes.push_back(hash);
      if (s.at("steps") != 2) throw tenon::error(tenon::errc::comm_failed, r.name() + " did not go on");
    };
    for (auto const& first : meshes) {
      // Both steps; without the second checkpoint it is a run that was stopped in the middle.
      train(first, folder);
      std::filesystem::remove_all(folder / "step-00000002");
      for (auto const& second : meshes) {
        std::size_t const before = hashes.size();
        train(second, folder);
        std::filesystem::remove_all(folder / "step-00000002");
        if (hashes.size() > std::max<std::size_t>(before, 1))
          std::fprintf(stderr, "mesh_matrix: %s saved on %s and resumed on %s ends in other bits.\n", model.c_str(),
                       first.name().c_str(), second.name().c_str());
      }
      std::filesystem::remove_all(folder);
      if (prints) {
        std::printf("%s saved on %s, resumed on %zu meshes: %zu distinct hashes\n", model.c_str(), first.name().c_str(),
                    meshes.size(), hashes.size());
        std::fflush(stdout);
      }
    }
    models.push_back({{"model", model}, {"pairs", meshes.size() * meshes.size()}, {"distinct_hashes", hashes.size()}});
  }
  return models;
}

}  // namespace

int main(int argc, char** argv) try {
  bool quick = false, as_json = false, resume = false;
  CLI::App app{"Trains on many meshes of threads and MPI ranks and checks that all end in the same bits."};
  app.add_flag("--quick", quick, "fewer meshes");
  app.add_flag("--resume", resume, "save on each of twelve meshes, resume on each; with --quick, four");
  app.add_flag("--json", as_json, "print one JSON object at the end, and nothing else");
  CLI11_PARSE(app, argc, argv);
  if (resume) {
    auto const models = try_pairs(quick, !as_json);
    if (as_json) std::printf("%s\n", json{{"models", models}}.dump(1).c_str());
    return std::all_of(models.begin(), models.end(), [](auto const& m) { return m.at("distinct_hashes") == 1; }) ? 0
                                                                                                                 : 1;
  }
  auto const lacking = without_mpi();
  if (!lacking.empty()) std::fprintf(stderr, "mesh_matrix: MPI is left out: %s\n", lacking.c_str());
  json models = json::array();
  bool same = true;
  for (char const* model : {"gpt-mesh", "mixtral-mesh"}) {
    auto const what = std::string(model) == "gpt-mesh" ? kind::dense : kind::mixture;
    models.push_back(try_all(model, list(quick, lacking.empty(), what), !as_json));
    same = same && models.back().at("distinct_hashes") == 1;
  }
  if (as_json) std::printf("%s\n", json{{"models", models}}.dump(1).c_str());
  return same ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "mesh_matrix: %s\n", e.what());
  return 1;
}
