// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The vocabulary of models that read bytes, as train_gpt trains them.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/text/byte_alphabet.hpp>
#include <tenon/text/utf8.hpp>
#include <tenon/text/vocabulary.hpp>

namespace tenon::text {

/// Token b is byte b. Byte 0, which text does not have, stands between two documents.
/// @test tests/text/byte_vocabulary_test.cpp
inline vocabulary byte_vocabulary() {
  struct memory {
    std::string spelled;
    std::array<std::int32_t, 256> types;
  };
  auto const kept = std::make_shared<memory>();
  std::array<std::size_t, 257> begins{};
  for (std::size_t b = 0; b < 256; ++b) {
    append_utf8(kept->spelled, detail::byte_alphabet::get().letters[b]);
    begins[b + 1] = kept->spelled.size();
  }
  kept->types.fill(std::int32_t(token_type::normal));
  kept->types[0] = std::int32_t(token_type::control);
  std::vector<std::string_view> tokens;
  for (std::size_t b = 0; b < 256; ++b)
    tokens.push_back(std::string_view(kept->spelled).substr(begins[b], begins[b + 1] - begins[b]));
  vocabulary v;
  v.byte_level = true;
  v.tokens = string_list(tokens, 0);
  v.types = {reinterpret_cast<std::byte const*>(kept->types.data()), kept->types.size()};
  v.beginning = v.end = 0;
  v.storage = kept;
  return v;
}

}  // namespace tenon::text
