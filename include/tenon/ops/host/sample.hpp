// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include <tenon/core/philox.hpp>
#include <tenon/ops/host/log_sum_exp.hpp>
#include <tenon/ops/sample.hpp>

namespace tenon::ops {
namespace detail {

/// Draws from rows, one after the other: with all threads of the pool where it is not in use.
///
/// Every filter keeps a prefix of the tokens by descending logit, so that all of them together are one `cut`. Maxima of
/// blocks lead to it without a look at most tokens: the k-th largest maximum is no larger than the k-th largest logit.
/// The draw then runs over the blocks that reach the cut, in the order of tokens.
class row_sampler {
 public:
  row_sampler(exec::thread_pool& threads, arena& scratch, index_t vocabulary_size, index_t leaf_vocabulary)
      : pool(threads), vocabulary(vocabulary_size), blocks(ceil_div(vocabulary, block)),
        leaf(leaf_vocabulary > 0 ? leaf_vocabulary : reduction_order::feature_leaf(vocabulary)),
        maxima(scratch.allocate<float>(blocks)), block_values(scratch.allocate<float>(blocks)),
        leaf_maxima(scratch.allocate<float>(ceil_div(vocabulary, leaf))),
        leaf_sums(scratch.allocate<float>(ceil_div(vocabulary, leaf))), changed(scratch.allocate<float>(vocabulary)),
        candidates(scratch.allocate<candidate>(vocabulary)) {}

  void run(sample_row& r) {
    bool const wants_log_probabilities = r.wants_log_probability || !r.likeliest.empty();
    x = r.logits;
    float log_sum_exp = 0;
    if (wants_log_probabilities) {
      log_sum_exp = row_log_sum_exp();
      if (!r.likeliest.empty()) list_likeliest(r.likeliest, log_sum_exp);
    }
    change(r);
    find_maxima();
    r.token = draw(*r.options, r.position);
    r.log_probability = wants_log_probabilities && r.token >= 0 ? r.logits[r.token] - log_sum_exp : 0.0f;
  }

 private:
  static constexpr index_t block = 256, piece_blocks = 32;  ///< that a thread takes at a time
  static constexpr float infinity = std::numeric_limits<float>::infinity();

  struct candidate {
    float logit;
    std::int32_t token;
    float weight;
  };
  static bool ahead(candidate const& a, candidate const& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }

  index_t end_of(index_t b) const { return std::min(vocabulary, (b + 1) * block); }

  float row_log_sum_exp() {
    index_t const leaves = ceil_div(vocabulary, leaf);
    pool.for_range(leaves, ceil_div(piece_blocks * block, leaf), [&](index_t begin, index_t end) {
      for (index_t l = begin; l < end; ++l)
        leaf_statistics(x + l * leaf, std::min(leaf, vocabulary - l * leaf), leaf_maxima[l], leaf_sums[l]);
    });
    return combine_statistics(leaf_maxima, leaf_sums, leaves).log_sum_exp();
  }

  void list_likeliest(std::span<token_value> list, float log_sum_exp) {
    find_maxima();
    set_weights(1.0f);
    index_t const found = keep_largest(index_t(list.size()));
    std::sort(candidates, candidates + found, ahead);
    for (index_t i = 0; i < index_t(list.size()); ++i)
      list[std::size_t(i)] =
          i < found ? token_value{candidates[i].token, candidates[i].logit - log_sum_exp} : token_value{-1, -infinity};
  }

  /// x becomes a changed copy where the options ask for one.
  void change(sample_row const& r) {
    sampling_options const& o = *r.options;
    bool const penalizes = o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
    if (o.bias.empty() && r.allowed.empty() && !(penalizes && !r.seen.empty())) return;
    std::copy(x, x + vocabulary, changed);
    x = changed;
    for (auto const& b : o.bias) changed[b.token] = changed[b.token] + b.value;
    for (auto const& s : r.seen) {
      float& y = changed[s.token];
      y = y > 0 ? y / o.repetition_penalty : y * o.repetition_penalty;
      y = std::fma(-o.frequency_penalty, float(s.generated), y);
      if (s.generated > 0) y = y - o.presence_penalty;
    }
    for (index_t t = 0; t < vocabulary && !r.allowed.empty(); t += 32) {
      std::uint32_t const word = r.allowed[std::size_t(t / 32)];
      if (word == 0xffffffffu) continue;
      for (index_t i = t; i < std::min(vocabulary, t + 32); ++i)
        if (!((word >> (i - t)) & 1u)) changed[i] = -infinity;
    }
  }

  /// to[b] = value(b) for each block
  template <class Value>
  void for_blocks(float* to, Value&& value) const {
    pool.for_range(blocks, piece_blocks, [&](index_t begin, index_t end) {
      for (index_t b = begin; b < end; ++b) to[b] = value(b);
    });
  }
  float block_maximum(index_t b) const {
    using namespace simd;
    f32x16 largest[4];  // chains, so that one comparison need not wait for the last
    for (auto& m : largest) m = broadcast(-infinity);
    index_t j = b * block;
    for (; j + 4 * lanes <= end_of(b); j += 4 * lanes)
      for_each_constant<4>([&](int i) TENON_INLINE_LAMBDA { largest[i] = max(largest[i], load(x + j + i * lanes)); });
    for_lanes(j, end_of(b),
              [&](index_t k, int n) TENON_INLINE_LAMBDA { largest[0] = max(largest[0], load(x + k, n, -infinity)); });
    return reduce_max(max(max(largest[0], largest[1]), max(largest[2], largest[3])));
  }
  void find_maxima() {
    for_blocks(maxima, [&](index_t b) { return block_maximum(b); });
    best = -infinity;
    for (index_t b = 0; b < blocks; ++b) best = best < maxima[b] ? maxima[b] : best;
  }
  std::int32_t first_of_largest() const {
    index_t const b = std::find(maxima, maxima + blocks, best) - maxima;
    return std::int32_t(std::find(x + b * block, x + end_of(b), best) - x);
  }

  /// The weight of a token is exp((logit - best) / temperature).
  void set_weights(float t) {
    temperature = t;
    inverse = std::min(1 / t, std::numeric_limits<float>::max());
  }
  TENON_ALWAYS_INLINE simd::f32x16 weights(simd::f32x16 logits) const {
    return simd::exp((logits - simd::broadcast(best)) * simd::broadcast(inverse));
  }
  /// The logit whose weight is w.
  float logit_of_weight(float w) const { return std::fma(temperature, simd::log(w), best); }

  /// Lists the tokens with logits in [least, end). Returns how many.
  index_t gather(float least, float end = infinity) {
    using namespace simd;
    index_t count = 0;
    for (index_t b = 0; b < blocks; ++b) {
      if (!(least <= maxima[b])) continue;
      for_lanes(b * block, end_of(b), [&](index_t j, int n) TENON_INLINE_LAMBDA {
        f32x16 const logits = load(x + j, n, -infinity);
        if (!any(broadcast(least) <= logits)) return;
        float w[lanes];
        store(w, weights(logits));
        for (int i = 0; i < n; ++i)
          if (least <= x[j + i] && x[j + i] < end) candidates[count++] = {x[j + i], std::int32_t(j + i), w[i]};
      });
    }
    return count;
  }
  /// Lists the k largest; the last of them is the last in the list. Returns how many there are, k at most.
  index_t keep_largest(index_t k) {
    float least = -infinity;
    if (k <= blocks) {
      std::copy(maxima, maxima + blocks, block_values);
      std::nth_element(block_values, block_values + k - 1, block_values + blocks, std::greater<>());
      least = block_values[k - 1];
    }
    index_t const found = gather(least);
    if (found == 0) return 0;
    if (found <= k) {
      std::iter_swap(std::max_element(candidates, candidates + found, ahead), candidates + found - 1);
      return found;
    }
    std::nth_element(candidates, candidates + k - 1, candidates + found, ahead);
    return k;
  }
  /// Sums of masses are exact, hence of no order: up to 2^19 weights of at most 1.
  static std::uint64_t mass(double weight) { return std::uint64_t(std::max(0.0, weight) * 0x1p44); }
  std::uint64_t mass(index_t begin, index_t end) const {
    std::uint64_t sum = 0;
    for (index_t i = begin; i < end; ++i) sum += mass(double(candidates[i].weight));
    return sum;
  }
  /// Of the first `count` candidates, the fewest of the largest whose mass reaches `wanted`, come first; the last of
  /// them is the last. Returns how many. Halves the part that holds the last one, without sorting it.
  index_t keep_mass(index_t count, std::uint64_t wanted) {
    index_t low = 0, high = count;
    std::uint64_t before = 0;
    while (high - low > 1) {
      index_t const middle = low + (high - low) / 2;
      std::nth_element(candidates + low, candidates + middle, candidates + high, ahead);
      std::uint64_t const reached = before + mass(low, middle);
      if (reached >= wanted) high = middle;
      else low = middle, before = reached;
    }
    return high;
  }
  /// The tokens that filters leave: those not behind this one.
  struct last_kept {
    float logit;
    index_t token;
  };
  void cut_after(index_t count) { cut = {candidates[count - 1].logit, candidates[count - 1].token}; }
  /// The same as `keep_mass` of all tokens, whose probability is `top_p`. Bisection comes first: it leaves few tokens.
  void cut_at_probability(float top_p) {
    double const total = weigh(), wanted = double(top_p) * total;
    // All tokens below this weight together weigh less than what may be missing.
    double const negligible = (1 - double(top_p)) * total / (4 * double(vocabulary));
    float low = logit_of_weight(float(std::min(1.0, negligible))), high = infinity;
    double above = 0;
    for (int step = 0; step < 8; ++step) {
      float const middle = low + (std::min(high, best) - low) / 2;
      cut = {middle, vocabulary};
      double const reached = weigh();
      if (reached >= wanted) low = middle;
      else high = middle, above = reached;
    }
    cut = {high, vocabulary};
    index_t const found = gather(low, high);
    if (found > 0) cut_after(keep_mass(found, mass(std::fma(double(top_p), total, -above))));
  }
  void filter(sampling_options const& o) {
    cut = {-infinity, vocabulary};
    if (o.top_k > 0 && o.top_k < vocabulary) {
      index_t const count = keep_largest(o.top_k);
      cut_after(o.top_p < 1 ? keep_mass(count, std::uint64_t(double(o.top_p) * double(mass(0, count)))) : count);
    } else if (o.top_p < 1) {
      cut_at_probability(o.top_p);
    }
    if (o.min_p <= 0) return;
    float const least = logit_of_weight(o.min_p);
    if (cut.logit < least) cut = {least, vocabulary};
  }

  /// function(j, n, weights of tokens [j, j + n)) over block b; 0 for those behind the cut.
  template <class Function>
  TENON_ALWAYS_INLINE void for_weights(index_t b, Function&& function) const {
    using namespace simd;
    f32x16 const limit = broadcast(cut.logit);
    for_lanes(b * block, end_of(b), [&](index_t j, int n) TENON_INLINE_LAMBDA {
      f32x16 const logits = load(x + j, n, -infinity), w = weights(logits);
      mask16 const kept_ties = first_lanes(int(std::clamp<index_t>(cut.token + 1 - j, 0, lanes)));
      f32x16 const tied = select(limit <= logits, select(kept_ties, w, zeros()), zeros());
      function(j, n, select(limit < logits, w, tied));
    });
  }
  float block_weight(index_t b) const {
    simd::f32x16 sum = simd::zeros();
    for_weights(b, [&](index_t, int, simd::f32x16 w) TENON_INLINE_LAMBDA { sum = sum + w; });
    return simd::reduce_add(sum);
  }

  /// The weights of all blocks, and their sum.
  double weigh() {
    for_blocks(block_values, [&](index_t b) { return cut.logit <= maxima[b] ? block_weight(b) : 0.0f; });
    double total = 0;
    for (index_t b = 0; b < blocks; ++b) total += double(block_values[b]);
    return total;
  }

  std::int32_t draw(sampling_options const& o, std::uint64_t position) {
    if (best == -infinity) return -1;
    if (o.temperature == 0 || best == infinity) return first_of_largest();
    set_weights(o.temperature);
    filter(o);
    double const total = weigh();
    auto const words = random_stream(o.seed, "sample").quad(o.sample, position);
    auto const random = (std::uint64_t(words[0]) << 32 | words[1]) >> 11;
    // The token in which the running sum of weights passes this. Rounding may leave it at the end: then the last block
    // or token with a weight is it.
    double const target = double(random) * 0x1p-53 * total;
    double reached = 0;
    index_t chosen = 0;
    for (index_t b = 0; b < blocks; ++b) {
      if (!(block_values[b] > 0)) continue;
      chosen = b;
      if (target < reached + double(block_values[b])) break;
      reached += double(block_values[b]);
    }
    float w[block];
    for_weights(chosen, [&](index_t j, int n, simd::f32x16 v)
                            TENON_INLINE_LAMBDA { simd::store(w + (j - chosen * block), v, n); });
    std::int32_t token = -1;
    for (index_t t = chosen * block; t < end_of(chosen); ++t) {
      double const weight = double(w[t - chosen * block]);
      if (!(weight > 0)) continue;
      token = std::int32_t(t);
      reached += weight;
      if (target < reached) break;
    }
    return token;
  }

  exec::thread_pool& pool;
  index_t vocabulary, blocks, leaf;
  float *maxima, *block_values, *leaf_maxima, *leaf_sums, *changed;
  candidate* candidates;
  float const* x = nullptr;  ///< the logits that are drawn from
  float best = 0, temperature = 1, inverse = 1;
  last_kept cut{};
};

inline void check_rows(sample_args const& a) {
  require(a.vocabulary > 0, "tenon::ops::sample: the vocabulary is empty. Fix: vocabulary, the length of a row.");
  for (auto const& r : a.rows) {
    require(r.logits && r.options, "tenon::ops::sample: a row has no logits or no options. Fix: set both pointers.");
    check_sampling(*r.options, a.vocabulary);
    for (auto const& s : r.seen)
      require(s.token >= 0 && s.token < a.vocabulary,
              "tenon::ops::sample: a seen token is not in the vocabulary. Fix: the tokenizer of this model.");
    require(r.allowed.empty() || index_t(r.allowed.size()) * 32 >= a.vocabulary,
            "tenon::ops::sample: the mask of allowed tokens is too short. Fix: a bit for every token.");
    require(index_t(r.likeliest.size()) <= a.vocabulary,
            "tenon::ops::sample: more likeliest tokens are asked for than there are. Fix: a shorter list.");
  }
}

}  // namespace detail

template <>
struct kernel_for<sample_t, device::host> {
  static void run(exec::host_context& ctx, sample_args const& a) {
    detail::check_rows(a);
    arena_scope scope(ctx.scratch());
    int const threads = int(std::min<index_t>(ctx.pool().size(), index_t(a.rows.size())));
    auto* const samplers = ctx.scratch().allocate<detail::row_sampler>(threads);
    for (int t = 0; t < threads; ++t)
      new (samplers + t) detail::row_sampler(ctx.pool(), ctx.scratch(), a.vocabulary, a.leaf_vocabulary);
    if (a.rows.size() == 1) return samplers[0].run(a.rows[0]);
    std::atomic<std::size_t> next{0};
    ctx.pool().run([&](int thread) {
      if (thread >= threads) return;
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < a.rows.size();)
        samplers[thread].run(a.rows[i]);
    });
  }
};

}  // namespace tenon::ops
