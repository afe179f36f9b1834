// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a step leaves behind for those who want to know that it was done right: hashes of all that goes through a
/// rank, in the order in which it does. See docs/reliability.md.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <tenon/comm/check.hpp>
#include <tenon/core/bit_sum.hpp>
#include <tenon/core/error.hpp>
#include <tenon/exec/host/thread_pool.hpp>

namespace tenon {

/// Memory of a rank is not what the step before had left there. The sentence names rank, step and tensor.
struct memory_changed : error {
  explicit memory_changed(std::string const& what) : error(errc::device_failed, what) {}
};

namespace receipt {

/// What was hashed, in the order in which a step comes to it.
enum class event {
  batch,          ///< the tokens and targets that a rank was given
  read,           ///< a parameter as blocks read it in forward, where that is a copy of what other ranks own
  forward,        ///< the hidden state that a layer gave
  received,       ///< the same, as the next stage of a pipeline got it
  read_back,      ///< as `read`, in backward
  backward,       ///< the gradient that a layer gave to the one before it
  received_back,  ///< the same, as the stage before got it
  gradient,       ///< of a parameter, of a micro-batch, before ranks add theirs
  gradient_sum,   ///< of all micro-batches of a rank
  reduced,        ///< of all ranks: what this one owns
  spread,         ///< the same as the update reads it, where that is other memory
  after           ///< a parameter or what the optimizer keeps for it, behind the update
};
inline constexpr std::array<char const*, 12> event_names{"batch",        "read",     "forward",       "received",
                                                         "read_back",    "backward", "received_back", "gradient",
                                                         "gradient_sum", "reduced",  "spread",        "after"};

/// One hash. Of a layer's result the layer's number is given (-1: the embedding, the number of layers: the head), of a
/// tensor its number among the recorder's.
struct item {
  event what;
  index_t micro_batch = -1;  ///< number over all ranks; -1: none
  index_t layer = 0;
  std::size_t tensor = 0;
  std::uint64_t hash = 0;
  bool of_layer() const {
    return what == event::forward || what == event::received || what == event::backward || what == event::received_back;
  }
};

/// What is kept of a parameter.
enum class tensor_kind { parameter, first, second, rounded };
inline constexpr std::array<char const*, 4> kind_prefixes{"", "first.", "second.", "rounded."};
/// Hashes of the whole model that do not depend on the mesh: each has one number per parameter.
enum class total { gradient, parameter, first, second };
inline constexpr std::array<char const*, 4> total_names{"gradients", "parameters", "first", "second"};

/// A bit that is flipped on purpose, in the memory that an item is about.
struct flip {
  int rank = 0;
  index_t step = 0;
  std::size_t item = 0;  ///< number among the step's, from 0
  index_t element = 0;   ///< counted round
  int bit = 0;
  bool behind = false;  ///< behind the hash, not before it
};

/// Records the steps of one rank. Given to `trainer::record_receipts`; `fit` does so (fit_options::receipts).
/// Takes no part in what is computed.   @test tests/train/receipt_test.cpp
class recorder {
 public:
  std::optional<flip> fault{};                                        ///< for tests
  index_t micro_batch = -1;                                           ///< that is being worked on, over all ranks
  bool is_first_of_step = false;                                      ///< it is this rank's first
  std::vector<std::string> names;                                     ///< of the parameters of the whole model
  std::vector<item> items;                                            ///< of the step that was finished last
  std::array<std::vector<std::uint64_t>, total_names.size()> totals;  ///< of the same; of all ranks

  /// A step is being recorded.
  bool active() const { return is_active; }
  index_t step() const { return number; }
  std::string name_of(item const& i) const {
    return kind_prefixes[i.tensor / names.size()] + names[i.tensor % names.size()];
  }
  std::size_t number_of(std::string const& name) const {
    return std::size_t(std::find(names.begin(), names.end(), name) - names.begin());
  }

  /// Begins anew, for a model with these parameters.
  void reset(std::vector<std::string> parameters) {
    names = std::move(parameters);
    state.clear();
    changed.reset();
  }
  void begin(index_t step, exec::thread_pool& pool, std::span<std::int32_t const> tokens,
             std::span<std::int32_t const> targets) {
    begin(step);
    start(event::batch, 0);
    add(pool, tokens.data(), sizeof(tokens[0]), index_t(tokens.size()), 0);
    add(pool, targets.data(), sizeof(targets[0]), index_t(targets.size()), index_t(tokens.size()));
  }
  void begin(index_t step) {
    number = step;
    is_active = true;
    items.clear();
    before = 0, behind = 0;
    micro_batch = -1;
    for (auto& t : totals) t.assign(names.size(), 0);
  }
  /// What follows is about this, until the next `start`.
  void start(event what, index_t layer, std::size_t tensor = 0) {
    bool const of_micro_batch = what >= event::read && what <= event::gradient;
    items.push_back({what, of_micro_batch ? micro_batch : -1, layer, tensor});
    current = &items.back().hash;
    has_flipped = false;
  }
  /// What follows is compared with the step before, and is no item.
  void start_check() { current = nullptr; }
  /// Adds n values of `bytes` each, which are those from number `first` on of what the item is about; returns their hash.
  std::uint64_t add(exec::thread_pool& pool, void const* values, std::size_t bytes, index_t n, index_t first) {
    bool const flips = current && fault && fault->step == number && fault->item + 1 == items.size() && !has_flipped;
    if (flips && !fault->behind) flip_bit(values, bytes, n);
    std::uint64_t const sum = hash(pool, values, bytes, n, first);
    if (flips && fault->behind) flip_bit(values, bytes, n);
    if (current) *current += sum;
    return sum;
  }
  /// State that is about to be updated must be as the step before left it. Calls come in the order of `left`.
  void found(std::size_t tensor, std::uint64_t sum) {
    if (before == state.size()) return state.push_back(sum), void(++before);  // the first step has nothing to compare
    if (state[before++] != sum && !changed) changed = tensor;
  }
  /// State behind the update.
  void left(std::uint64_t sum) { state[behind++] = sum; }
  static std::uint64_t hash(exec::thread_pool& pool, void const* values, std::size_t bytes, index_t n, index_t first) {
    constexpr index_t piece = index_t(1) << 14;
    if (n <= piece || pool.size() == 1) return bit_sum(values, bytes, n, first);
    std::atomic<std::uint64_t> sum{0};
    pool.for_range(n, piece, [&](index_t begin, index_t end) {
      sum.fetch_add(bit_sum(static_cast<std::byte const*>(values) + std::size_t(begin) * bytes, bytes, end - begin,
                            first + begin),
                    std::memory_order_relaxed);
    });
    return sum;
  }

  /// The end of a step, with all ranks. @error memory_changed on every rank, naming the first that saw it
  template <class World>
  void finish(World& world) {
    is_active = false;
    sum_over(world);
    std::string const sentence = comm::first_sentence(world, changed ? sentence_of_change(world.rank()) : "");
    if (!sentence.empty()) throw memory_changed(sentence);
  }

 private:
  void flip_bit(void const* values, std::size_t bytes, index_t n) {
    auto* const value =
        static_cast<unsigned char*>(const_cast<void*>(values)) + std::size_t(fault->element % n) * bytes;
    int const bit = fault->bit % int(8 * bytes);
    value[bit / 8] = static_cast<unsigned char>(value[bit / 8] ^ (1u << (bit % 8)));
    has_flipped = true;
  }
  std::string sentence_of_change(int rank) const {
    return "step " + std::to_string(number) + ": on rank " + std::to_string(rank) + " " +
           name_of({event::after, -1, 0, *changed}) + " is not what step " + std::to_string(number - 1) +
           " had left in memory; the step was not kept. Fix: resume from the last checkpoint; where it happens again, "
           "test or replace that host's memory.";
  }
  /// In halves, so that no sum overflows.
  template <class World>
  void sum_over(World& world) {
    if (world.size() == 1) return;
    std::vector<std::int64_t> halves;
    for (auto const& t : totals)
      for (auto v : t) halves.push_back(std::int64_t(v & 0xffffffffu)), halves.push_back(std::int64_t(v >> 32));
    world.sum(halves);
    std::size_t at = 0;
    for (auto& t : totals)
      for (auto& v : t) {
        v = std::uint64_t(halves[at]) + (std::uint64_t(halves[at + 1]) << 32);
        at += 2;
      }
  }

  index_t number = 0;
  bool is_active = false, has_flipped = false;
  std::uint64_t* current = nullptr;      // of the item that was started
  std::vector<std::uint64_t> state;      // as the step before left it
  std::size_t before = 0, behind = 0;    // how many of these were found and left in this step
  std::optional<std::size_t> changed{};  // the first tensor that was not
};

}  // namespace receipt
}  // namespace tenon
