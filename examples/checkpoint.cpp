// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Reads checkpoints and compares every byte with what was written:   checkpoint run/   or   checkpoint run/step-00000200
#include <cstdio>
#include <exception>
#include <filesystem>
#include <vector>

#include <tenon/train/checkpoint_files.hpp>

int main(int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') {
    std::fprintf(stderr, "checkpoint FOLDER...\n\nVerifies checkpoints, or all those of a run; 1 if any is broken.\n");
    return argc < 2;
  }
  bool good = true;
  auto const verify = [&](std::filesystem::path const& folder) {
    try {
      tenon::train::checkpoint_files const files(folder);
      files.verify();
      auto const& state = files.state();
      std::size_t tensors = 0, bytes = 0;
      for (auto const& [name, file] : files.files())
        for (auto const& [tensor, content] : file.tensors()) ++tensors, bytes += content.bytes.size();
      std::printf("%s: good: %s, %s, step %s, sequence %s; %zu tensors of %zu bytes in %zu files%s\n", folder.c_str(),
                  state.value("model", "?").c_str(), state.value("optimizer", "?").c_str(),
                  state.at("steps").dump().c_str(), state.at("samples").dump().c_str(), tensors, bytes,
                  files.files().size(), state.at("format") == 1 ? ", whose format has no digests" : "");
    } catch (std::exception const& e) {
      good = false;
      std::printf("%s\n", e.what());
    }
  };
  for (int i = 1; i < argc; ++i) {
    std::filesystem::path const given = argv[i];
    auto const run = tenon::list_checkpoints(given);
    for (auto const& c : run) verify(c);
    if (run.empty()) verify(given);
  }
  return good ? 0 : 1;
}
