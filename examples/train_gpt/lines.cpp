// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "lines.hpp"

namespace train_gpt {

std::string policies_of(arguments const& a) {
  std::string text;
  auto const add = [&](std::string const& policy) { text.append(text.empty() ? "" : ",").append(policy); };
  auto const& m = a.mesh;
  if (m.data > 1 || a.zero > 0 || m.size() == 1) add("data<dynamic>");
  if (m.tensor > 1 || a.sequence_parallel) add("tensor<dynamic>");
  if (m.context > 1) add(a.exchange == "ring" ? "context<dynamic>" : "context<dynamic, " + a.exchange + ">");
  if (m.pipeline > 1) {
    bool const numbered = a.schedule == "interleaved";
    add("pipeline<dynamic, " + (a.schedule == "1f1b" ? "one_f_one_b" : a.schedule) + (numbered ? "<2>>" : ">"));
  }
  if (m.expert > 1) add("expert<dynamic>");
  if (a.zero > 0) add("zero<" + std::to_string(a.zero) + ">");
  if (a.sequence_parallel) add("sequence_parallel");
  return text;
}

}  // namespace train_gpt
