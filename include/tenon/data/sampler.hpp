// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Which tokens sample number g of a run is: a pure function, so there is no loader state to save or to lose.
#include <bit>
#include <cstdint>
#include <span>

#include <tenon/core/philox.hpp>
#include <tenon/data/source.hpp>

namespace tenon {
namespace detail {

/// A random permutation of [0, size) that is computed, not stored: a Feistel network whose round function is Philox,
/// on the smallest even number of bits that holds `size`, walked until the result is below `size`.
/// @source Black and Rogaway 2002, "Ciphers with arbitrary finite domains", CT-RSA (cycle walking)
class feistel_permutation {
 public:
  feistel_permutation(std::uint64_t count, std::uint64_t seed, std::uint64_t which)
      : size(count), half_bits((int(std::bit_width(count > 1 ? count - 1 : 1)) + 1) / 2),
        number(which), key{std::uint32_t(seed), std::uint32_t(seed >> 32) ^ 0x70657273u} {}
  /// Where `i` goes; below four rounds on average, as the domain is less than four times `size`.
  std::uint64_t operator()(std::uint64_t i) const {
    do i = once(i);
    while (i >= size);
    return i;
  }

 private:
  static constexpr std::uint32_t rounds = 8;
  std::uint64_t once(std::uint64_t i) const {
    std::uint64_t const mask = (std::uint64_t(1) << half_bits) - 1;
    std::uint64_t left = i >> half_bits, right = i & mask;
    for (std::uint32_t r = 0; r < rounds; ++r) {
      auto const w =
          philox::generate({std::uint32_t(right), r, std::uint32_t(number), std::uint32_t(number >> 32)}, key);
      std::uint64_t const next = left ^ (w[0] & mask);
      left = right, right = next;
    }
    return left << half_bits | right;
  }
  std::uint64_t size;
  int half_bits;
  std::uint64_t number;
  philox::key_type key;
};

}  // namespace detail

/// A sample's place in the data.
struct data_window {
  std::uint64_t epoch;  ///< how often the text has been gone through before
  std::uint64_t index;  ///< which sample of the epoch
  index_t begin;        ///< its first token; it reads [begin, begin + context + 1)
};

/// Draws samples of `context` tokens, and the one after each, from a source. An epoch cuts the stream, from a random
/// beginning of its own, into windows that do not overlap as inputs, and visits each exactly once in random order.
///
/// Sample number g, counted over the whole run and over all ranks, is a function of (seed, g, source length, context)
/// alone. So the position in the data is that number: nothing else is saved, and any batch size, number of ranks or
/// order of calls sees the same samples.
/// @error argument_error when the source is too short   @test tests/data/sampler_test.cpp
template <TokenSource Source>
class batch_sampler {
 public:
  /// `source` must live longer.
  batch_sampler(Source const& source, index_t context, std::uint64_t seed)
      : tokens(&source), length(context), key(seed) {
    check_length(source, context);
    // One window fewer than would fit, so that the beginning can move by a whole context from epoch to epoch.
    auto const fit = (index_t(source.size()) - 1) / context;
    windows = fit > 1 ? fit - 1 : 1;
    slack = index_t(source.size()) - 1 - windows * context;
  }
  index_t context() const { return length; }
  /// The same for every epoch.
  index_t samples_per_epoch() const { return windows; }
  /// Epochs that so many samples are.
  double epochs(std::uint64_t samples) const { return double(samples) / double(windows); }

  data_window window(std::uint64_t global_sample) const {
    std::uint64_t const epoch = global_sample / std::uint64_t(windows), index = global_sample % std::uint64_t(windows);
    detail::feistel_permutation const order(std::uint64_t(windows), key, epoch);
    return {epoch, index, offset(epoch) + index_t(order(index)) * length};
  }
  /// Samples [first, first + count): inputs and, one token later, targets.
  /// @shape inputs, targets [count, context]
  void fill(std::uint64_t first, index_t count, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const {
    for (index_t s = 0; s < count; ++s)
      fill_window(*tokens, window(first + std::uint64_t(s)).begin,
                  inputs.subspan(std::size_t(s * length), std::size_t(length)),
                  targets.subspan(std::size_t(s * length), std::size_t(length)));
  }
  /// One sample whose first token is number `begin`.
  static void fill_window(Source const& source, index_t begin, std::span<std::int32_t> inputs,
                          std::span<std::int32_t> targets) {
    std::size_t const n = inputs.size();
    source.copy(begin, inputs);
    source.copy(begin + index_t(n), targets.subspan(n - 1, 1));
    for (std::size_t i = 0; i + 1 < n; ++i) targets[i] = inputs[i + 1];
  }

 private:
  /// Uniform in [0, slack]; the remainder of a 64-bit number by so small a one has no bias to speak of.
  index_t offset(std::uint64_t epoch) const {
    auto const w = random_stream(key, "data offset").quad(epoch, 0);
    std::uint64_t const bits = std::uint64_t(w[0]) << 32 | w[1];
    return index_t(bits % (std::uint64_t(slack) + 1));
  }
  Source const* tokens;
  index_t length, windows = 0, slack = 0;
  std::uint64_t key;
};

/// Goes through a source from its beginning in windows of `context` tokens, for evaluation: `count()` of them, in
/// order, without overlap; up to `context` tokens at the end are left out.
template <TokenSource Source>
class sequential_windows {
 public:
  sequential_windows(Source const& source, index_t context) : tokens(&source), length(context) {
    check_length(source, context);
  }
  index_t context() const { return length; }
  index_t count() const { return (index_t(tokens->size()) - 1) / length; }
  /// Windows [first, first + windows). @shape inputs, targets [windows, context]
  void fill(index_t first, index_t windows, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const {
    for (index_t w = 0; w < windows; ++w)
      batch_sampler<Source>::fill_window(*tokens, (first + w) * length,
                                         inputs.subspan(std::size_t(w * length), std::size_t(length)),
                                         targets.subspan(std::size_t(w * length), std::size_t(length)));
  }

 private:
  Source const* tokens;
  index_t length;
};

}  // namespace tenon
