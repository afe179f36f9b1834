// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <tenon/ops/sample.hpp>

namespace tenon::infer {

/// The tokens of one sequence as penalties want them: each once, with how often it was generated.
/// @test tests/infer/speculation_test.cpp
class seen_tokens {
 public:
  /// @param most tokens of the sequence: no memory is taken later
  seen_tokens(std::span<std::int32_t const> prompt, index_t most) {
    seen.reserve(std::size_t(most));
    for (auto const t : prompt) add(t, 0);
  }
  void add(std::int32_t token) { add(token, 1); }
  std::span<ops::seen_token const> list() const { return seen; }

 private:
  void add(std::int32_t token, std::int32_t generated) {
    auto at = std::lower_bound(seen.begin(), seen.end(), token, [](auto const& s, auto t) { return s.token < t; });
    if (at == seen.end() || at->token != token) at = seen.insert(at, {token, 0});
    at->generated += generated;
  }
  std::vector<ops::seen_token> seen;  // by token
};

}  // namespace tenon::infer
