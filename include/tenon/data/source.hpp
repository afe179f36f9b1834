// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <concepts>
#include <cstdint>
#include <span>
#include <string>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>

namespace tenon {

/// One long stream of tokens: `size()` of them, each in [0, vocabulary()); `copy(first, out)` gives [first, first +
/// out.size()), which must lie within the stream. Reading it from several threads at a time is allowed.
template <class S>
concept TokenSource = requires(S const& s, index_t first, std::span<std::int32_t> out) {
  { s.size() } -> std::convertible_to<index_t>;
  { s.vocabulary() } -> std::convertible_to<int>;
  s.copy(first, out);
};

/// What messages call a source: its `name()`, when it has one.
template <TokenSource S>
std::string source_name(S const& source) {
  if constexpr (requires { std::string(source.name()); }) return std::string(source.name());
  else return "the text";
}

namespace detail {
/// @error argument_error when [first, first + count) is not within a source of `size` tokens
inline void check_range(index_t first, std::size_t count, index_t size) {
  if (first < 0 || first > size || count > std::size_t(size - first))
    throw argument_error("tenon: tokens [" + std::to_string(first) + ", " + std::to_string(first) + " + " +
                         std::to_string(count) + ") are asked of a source that has " + std::to_string(size) +
                         ". Fix: stay within size().");
}
}  // namespace detail

/// Tokens [first, first + count) of another source, which must live longer.
/// @test tests/data/text_test.cpp
template <TokenSource Source>
class token_range {
 public:
  token_range(Source const& source, index_t first, index_t count) : whole(&source), begin(first), length(count) {}
  index_t size() const { return length; }
  int vocabulary() const { return whole->vocabulary(); }
  std::string name() const { return source_name(*whole); }
  void copy(index_t first, std::span<std::int32_t> out) const {
    detail::check_range(first, out.size(), length);
    whole->copy(begin + first, out);
  }

 private:
  Source const* whole;
  index_t begin, length;
};

/// A text in two: what is trained on, and what the loss is measured on.
template <TokenSource Source>
struct split_source {
  token_range<Source> training, validation;
};

/// Cuts off the last `validation_fraction` of a source for validation, rounded down to whole tokens. The cut depends on
/// the length alone.
/// @error argument_error unless 0 <= validation_fraction < 1
template <TokenSource Source>
split_source<Source> split(Source const& source, double validation_fraction) {
  if (!(validation_fraction >= 0 && validation_fraction < 1))
    throw argument_error("tenon::split: a validation fraction of " + std::to_string(validation_fraction) +
                         " leaves nothing to train on. Fix: a number from 0 to below 1, e.g. 0.1.");
  auto const kept = index_t(source.size()) - index_t(double(source.size()) * validation_fraction);
  return {{source, 0, kept}, {source, kept, index_t(source.size()) - kept}};
}

/// A source that is too short for one sample of `context` tokens and the one after is refused.
/// @error argument_error that names the source, its length and what is needed
template <TokenSource Source>
void check_length(Source const& source, index_t context) {
  if (context < 1)
    throw argument_error("tenon: a context of " + std::to_string(context) + " tokens holds nothing. Fix: at least 1.");
  if (index_t(source.size()) < context + 1)
    throw argument_error(source_name(source) + ": has " + std::to_string(source.size()) + " tokens, but a context of " +
                         std::to_string(context) + " needs at least " + std::to_string(context + 1) +
                         ". Fix: more text, or a shorter context.");
}

}  // namespace tenon
