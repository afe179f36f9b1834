// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The same check for libFuzzer, for longer searches by hand:
//   clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -Iinclude -Itests tests/fuzz/gguf_fuzzer.cpp
//   ./a.out -max_len=4096 NEW_FINDINGS tests/fuzz/corpus/gguf
// and to keep few inputs that reach all of the code: ./a.out -set_cover_merge=1 -use_counters=0 KEPT NEW_FINDINGS
#include <cstdio>
#include <cstdlib>

#include <fuzz/gguf_check.hpp>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::string const wrong = check_gguf({reinterpret_cast<std::byte const*>(data), size});
  if (!wrong.empty()) {
    std::fprintf(stderr, "%s\n", wrong.c_str());
    std::abort();
  }
  return 0;
}
