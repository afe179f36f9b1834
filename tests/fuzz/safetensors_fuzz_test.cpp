// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <fuzz/mutate.hpp>
#include <fuzz/safetensors_check.hpp>
#include <io/safetensors_samples.hpp>

TEST_CASE("safetensors: mutated files are refused with a sentence or hold every promise") {
  std::string const sample = sample_safetensors();
  std::vector<std::string> const seeds = {
      sample, safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, '\2')),
      safetensors_bytes(R"({"__metadata__":{"k":"v"},"b":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}})", "abc")};
  mutator mutate(20261123);
  int opened_count = 0, count = 0;
  auto const begin = std::chrono::steady_clock::now();
  // A fixed sequence; slow builds do less of it.
  while (count < 60000 && std::chrono::steady_clock::now() - begin < std::chrono::seconds(2)) {
    std::string const& seed = seeds[mutate.below(seeds.size())];
    std::string file;
    if (mutate.below(4) == 0) {
      file = mutate(seed);
    } else {  // the header alone, with a length that is right again
      std::uint64_t length = 0;
      std::memcpy(&length, seed.data(), 8);
      file = safetensors_bytes(mutate(seed.substr(8, length)), seed.substr(8 + length));
    }
    // Exactly as many bytes as there are, so that a sanitizer sees the first one beyond.
    std::unique_ptr<std::byte[]> const copy(new std::byte[file.size()]);
    std::memcpy(copy.get(), file.data(), file.size());
    bool opened = false;
    std::string const wrong = check_safetensors({copy.get(), file.size()}, &opened);
    opened_count += opened;
    ++count;
    if (!wrong.empty()) FAIL("input " << count << " gives " << wrong);
  }
  MESSAGE(count << " inputs, " << opened_count << " of them valid");
  CHECK(count > 500);
  CHECK(opened_count > count / 200);  // the mutations are not all nonsense
}
