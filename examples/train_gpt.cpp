// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: train_gpt_parts train_gpt_kernels train_gpt_self
// Trains a GPT-2, Llama or Mixtral shaped model on the bytes of any text: the program behind the quickstart.
#include <cstdio>
#include <exception>

#include <tenon/comm/self.hpp>

#include "train_gpt/lines.hpp"
#include "train_gpt/report.hpp"

int main(int argc, char** argv) try {
  auto const a = train_gpt::read_command_line(
      argc, argv, "Trains a GPT on the bytes of a text, on one machine. Results do not depend on --threads.");
  if (!a) return 0;
  tenon::comm::self world;
  return train_gpt::finish(*a, train_gpt::train(world, *a));
} catch (std::exception const& e) {
  std::fprintf(stderr, "train_gpt: %s\n", e.what());
  return 1;
}
