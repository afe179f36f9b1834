// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include <tenon/data/source.hpp>
#include <tenon/io/mapped_file.hpp>

namespace tenon {

/// Tokens that some tokenizer has written: a raw file of little-endian 16-bit numbers and nothing else, mapped.
/// @error file_error for a file that is missing, empty, of odd length, or has a token out of range
/// @test tests/data/token_file_test.cpp
class token_file {
 public:
  /// `vocabulary`: one more than the largest token there may be; tokens are checked as they are read.
  explicit token_file(io::path file, int vocabulary = 65536) : source(std::move(file)), limit(vocabulary) {
    if (vocabulary < 1 || vocabulary > 65536)
      throw argument_error("tenon::token_file: a vocabulary of " + std::to_string(vocabulary) +
                           " does not fit 16-bit tokens. Fix: a number from 1 to 65536.");
    if (source.size() == 0) throw file_error(name(), "is empty. Fix: write tokens to it first.");
    if (source.size() % 2)
      throw file_error(name(),
                       "has " + std::to_string(source.size()) +
                           " bytes, which is no whole number of 16-bit tokens. Fix: write it again as raw uint16.");
  }
  index_t size() const { return index_t(source.size() / 2); }
  int vocabulary() const { return limit; }
  std::string name() const { return source.file().string(); }
  void copy(index_t first, std::span<std::int32_t> out) const {
    detail::check_range(first, out.size(), size());
    auto const* const p = source.bytes().data() + 2 * first;
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::uint16_t token;
      std::memcpy(&token, p + 2 * i, 2);
      out[i] = token;
      if (out[i] >= limit) out_of_range(first + index_t(i), token);
    }
  }

 private:
  [[noreturn]] void out_of_range(index_t position, int token) const {
    throw file_error(name(), "token " + std::to_string(token) + " at position " + std::to_string(position) +
                                 " is not in the vocabulary of " + std::to_string(limit) +
                                 ". Fix: use the model that the tokens are for.");
  }
  io::mapped_file source;
  int limit;
};
static_assert(TokenSource<token_file>);

}  // namespace tenon
