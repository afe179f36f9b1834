// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "report.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <tenon/train/stop.hpp>

namespace train_gpt {
namespace fs = std::filesystem;

std::vector<std::string> text_files(std::vector<std::string> const& given) {
  static std::vector<std::string> const kinds{".txt", ".md", ".hpp", ".cpp",   ".h",
                                              ".c",   ".cc", ".py",  ".cmake", ".json"};
  std::vector<std::string> files;
  for (auto const& name : given) {
    if (!fs::is_directory(name)) {
      files.push_back(name);
      continue;
    }
    std::size_t const before = files.size();
    for (fs::recursive_directory_iterator it(name), end; it != end; ++it) {
      std::string const entry = it->path().filename().string();
      if (it->is_directory() && (entry[0] == '.' || entry == "build" || entry == "run")) it.disable_recursion_pending();
      else if (it->is_regular_file() && it->file_size() > 0 &&
               std::find(kinds.begin(), kinds.end(), it->path().extension().string()) != kinds.end())
        files.push_back(it->path().string());
    }
    std::sort(files.begin() + std::ptrdiff_t(before), files.end());
    if (files.size() == before)
      throw tenon::argument_error("--text " + name + ": the folder holds no text file. Fix: name the files.");
  }
  return files;
}

std::optional<tenon::receipt::flip> flip_of(std::string const& text) {
  if (text.empty()) return {};
  tenon::receipt::flip f;
  char behind[8] = "";
  int const found =
      std::sscanf(text.c_str(), "%d,%td,%zu,%td,%d,%7s", &f.rank, &f.step, &f.item, &f.element, &f.bit, behind);
  f.behind = std::string(behind) == "behind";
  if (found < 5 || (found == 6 && !f.behind) || f.element < 0 || f.bit < 0)
    throw tenon::argument_error("--flip " + text +
                                ": expected RANK,STEP,ITEM,ELEMENT,BIT[,behind]. Fix: as in 0,3,17,100,30.");
  return f;
}

void print_sample(std::string const& text, char const* when) {
  std::string s = text;  // with a dot for every byte that is none
  for (char& c : s)
    if ((static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\t') || static_cast<unsigned char>(c) >= 127) c = '.';
  std::printf("\n---- sample, %s ----\n%s\n--------\n\n", when, s.c_str());
  std::fflush(stdout);
}

static void print_summary(arguments const& a, nlohmann::ordered_json const& summary) {
  if (a.json) {
    std::printf("%s\n", summary.dump().c_str());
    return;
  }
  std::printf("step %ld: loss %.3f, validation %.3f, %.0f tokens/s, %.0f %% of the processor's peak\n",
              summary.at("steps").get<long>(), summary.at("loss").get<double>(),
              summary.at("validation_loss").get<double>(), summary.at("tokens_per_second").get<double>(),
              100 * summary.at("flops_utilization").get<double>());
  if (a.mesh.size() > 1)
    std::printf("%s over %s: %.0f bytes sent per step, by all ranks\n", to_string(a.mesh).c_str(),
                summary.at("communicator").get<std::string>().c_str(), summary.at("bytes_sent_per_step").get<double>());
  if (!a.out.empty())
    std::printf(
        "written to %s: checkpoint (step-*), metrics.jsonl, loss.svg\n\nTry next:\n"
        "  --resume --steps %td --out %s   train on from here\n"
        "  --text FILE...                   your own text\n"
        "  --model llama-small              another architecture; --help lists them\n",
        a.out.c_str(), 2 * a.steps, a.out.c_str());
}

int finish(arguments const& a, nlohmann::ordered_json const& summary, bool prints) {
  bool const stopped = summary.at("stopped").get<bool>();
  // Of a run that a supervisor starts again only the end is told.
  if (prints && !(stopped && tenon::launch_settings())) print_summary(a, summary);
  return stopped ? tenon::stopped_exit_code : 0;
}

}  // namespace train_gpt
