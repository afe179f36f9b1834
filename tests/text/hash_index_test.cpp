// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <tenon/text/hash_index.hpp>

using namespace tenon::text::detail;

TEST_CASE("hash_index: finds every key, of equal ones the last, and no other") {
  for (std::size_t const n : {0, 1, 2, 5, 1000, 70000}) {
    std::vector<std::string> keys;
    for (std::size_t i = 0; i < n; ++i) keys.push_back(std::string(i % 20, 'x') + std::to_string(i));
    if (n > 2) keys[1] = keys[0];
    hash_index const index(n, [&](std::size_t i) { return hash_bytes(keys[i]); });
    auto const find = [&](std::string const& k) {
      return index.find(hash_bytes(k), [&](std::uint32_t i) { return keys[i] == k; });
    };
    for (std::size_t i = n > 2 ? 1 : 0; i < n; ++i) REQUIRE(find(keys[i]) == std::int32_t(i));
    CHECK(find("y") == -1);
    CHECK(find("") == -1);
  }
}
TEST_CASE("hash_index: equal keys in any number do not take long") {
  hash_index const index(300000, [](std::size_t) { return 7; });
  CHECK(index.find(7, [](std::uint32_t) { return true; }) == 299999);
}
