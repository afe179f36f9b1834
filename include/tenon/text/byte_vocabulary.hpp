// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The vocabulary of models that read bytes, as train_gpt trains them.
#include <memory>
#include <string>
#include <vector>

#include <tenon/text/byte_alphabet.hpp>
#include <tenon/text/utf8.hpp>
#include <tenon/text/vocabulary.hpp>

namespace tenon::text {

/// Token b is byte b. Byte 0, which text does not have, stands between two documents.
/// @test tests/text/byte_vocabulary_test.cpp
inline vocabulary byte_vocabulary() {
  auto const spelled = std::make_shared<std::vector<std::string>>(256);
  vocabulary v;
  v.byte_level = true;
  v.types.assign(256, token_type::normal);
  v.types[0] = token_type::control;
  v.beginning = v.end = 0;
  for (std::size_t b = 0; b < 256; ++b) {
    append_utf8((*spelled)[b], detail::byte_alphabet::get().letters[b]);
    v.tokens.push_back((*spelled)[b]);
  }
  v.storage = spelled;
  return v;
}

}  // namespace tenon::text
