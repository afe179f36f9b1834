// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model
// Beam search, for tests/parity/beam_test.py:
//   parity_beam_program MODEL <REQUESTS >TEXTS
// A request is a line of JSON; what is found for it is one too: of each text, the best first, [token, log-probability]s.
#include <cstdint>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "../../examples/any_model/engine.hpp"

int main(int, char** argv) {
  namespace infer = tenon::infer;
  tenon::any_engine e{argv[1], {.longest = 256, .threads = 1}};
  for (std::string line; std::getline(std::cin, line);) {
    auto const asked = nlohmann::json::parse(line);
    infer::generation g{.prompt = asked["prompt"], .max_tokens = asked["max_tokens"], .samples = asked["beams"]};
    g.stop_tokens = asked["stops"].get<std::vector<std::int32_t>>();
    g.beams = asked["beams"];
    g.length_penalty = asked["length_penalty"];
    g.early_stopping = infer::early_stopping(asked["early_stopping"].get<int>());
    auto found = nlohmann::json::array();
    e.submit(std::move(g), [&](infer::new_token const& t) {
      found[std::size_t(t.sample)].push_back({t.token, t.log_probability});
      return true;
    });
    while (e.step()) {
    }
    std::cout << found << std::endl;
  }
}
