// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Pipeline schedules as programs: what each rank does in which order, with every transfer written down, and a
/// simulator that proves a schedule and measures it, in constant evaluation as well as at run time
/// (docs/decisions/0007-schedules-are-programs.md).
///
/// A *chunk* is what a rank holds of the model: chunk c of rank r is stage c x stages + r of the whole pipeline.
#include <concepts>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>
#include <tenon/policy/parallel.hpp>

namespace tenon::parallel {

/// What an instruction does. `backward` is `input_backward` and `weight_backward` in one.
enum class action { forward, backward, input_backward, weight_backward, exchange };
enum class direction { send, receive };
enum class payload { activation, gradient };

/// One message. A chunk's activations go to the stage after it, the gradients of its input to the stage before it.
struct transfer {
  direction way;
  payload what;
  int peer;
  int micro_batch;
  int chunk;  ///< of the rank whose program this is
};

/// One step of a rank. The transfers of an exchange are posted together, and the rank goes on when all have happened.
struct instruction {
  action what;
  int micro_batch = 0;
  int chunk = 0;
  std::vector<transfer> transfers{};
};
using program = std::vector<instruction>;

/// Makes a program of slots of work. Between two slots is one exchange: it sends what the slot before made and receives
/// what the slot after needs.
class program_builder {
 public:
  constexpr program_builder(int stage_count, int this_rank, int chunk_count)
      : stages(stage_count), rank(this_rank), chunks(chunk_count) {}

  constexpr void slot(std::initializer_list<instruction> work) {
    for (auto const& w : work) connect(w, direction::receive);
    exchange();
    for (auto const& w : work) {
      result.push_back(w);
      connect(w, direction::send);
    }
  }
  constexpr program finish() {
    exchange();
    return std::move(result);
  }

 private:
  constexpr void connect(instruction const& w, direction way) {
    if (stages == 1 || w.what == action::weight_backward) return;
    bool const forward = w.what == action::forward;
    int const stage = w.chunk * stages + rank, other = forward == (way == direction::send) ? stage + 1 : stage - 1;
    if (other < 0 || other >= stages * chunks) return;
    auto const what = forward ? payload::activation : payload::gradient;
    pending.push_back({way, what, other % stages, w.micro_batch, w.chunk});
  }
  constexpr void exchange() {
    if (!pending.empty()) result.push_back({.what = action::exchange, .transfers = std::move(pending)});
    pending = {};
  }

  int stages, rank, chunks;
  program result;
  std::vector<transfer> pending;
};

/// How a schedule is given, the library's and anyone's: specialise this for a type of your own. No default.
///
///     static constexpr int chunks = 1;              // chunks of a rank
///     static constexpr int multiple(int stages);    // the number of micro-batches is a multiple of this
///     static constexpr program make(int stages, int rank, int micro_batches);
///
/// `check_schedule` proves what it makes. In each chunk, weight gradients are made in the order of the micro-batches:
/// it is the order of their sum.
template <class Schedule>
struct schedule_for;

template <class S>
concept PipelineSchedule = requires(int n) {
  { schedule_for<S>::chunks } -> std::convertible_to<int>;
  { schedule_for<S>::multiple(n) } -> std::same_as<int>;
  { schedule_for<S>::make(n, n, n) } -> std::same_as<program>;
};

namespace detail {
/// `warmup` forwards, then a forward and a backward by turns, then the backwards that are left.
constexpr program by_turns(int stages, int rank, int micro_batches, int warmup) {
  program_builder p(stages, rank, 1);
  for (int f = 0; f < warmup; ++f) p.slot({{action::forward, f}});
  for (int b = 0, f = warmup; b < micro_batches; ++b, ++f) {
    if (f < micro_batches) p.slot({{action::forward, f}});
    p.slot({{action::backward, b}});
  }
  return p.finish();
}
constexpr int at_most(int n, int limit) { return n < limit ? n : limit; }
}  // namespace detail

/// All forwards, then all backwards: every activation is kept. @source Huang et al. 2019, arXiv:1811.06965
template <>
struct schedule_for<gpipe> {
  static constexpr int chunks = 1;
  static constexpr int multiple(int) { return 1; }
  static constexpr program make(int stages, int rank, int micro_batches) {
    return detail::by_turns(stages, rank, micro_batches, micro_batches);
  }
};

/// A rank keeps no more activations than there are stages from it to the end.
/// @source Narayanan et al. 2021, arXiv:2104.04473, section 2.2.1 (PipeDream-Flush)
template <>
struct schedule_for<one_f_one_b> {
  static constexpr int chunks = 1;
  static constexpr int multiple(int) { return 1; }
  static constexpr program make(int stages, int rank, int micro_batches) {
    return detail::by_turns(stages, rank, micro_batches, detail::at_most(stages - rank - 1, micro_batches));
  }
};

/// V chunks per rank, visited `stages` micro-batches at a time: the bubble shrinks V times. A forward and a backward
/// make one slot, as in Megatron; with an exchange between them, neighbours would wait for each other forever.
/// @source Narayanan et al. 2021, arXiv:2104.04473, section 2.2.2
template <int V>
struct schedule_for<interleaved<V>> {
  static constexpr int chunks = V;
  static constexpr int multiple(int stages) { return stages; }
  static constexpr program make(int stages, int rank, int micro_batches) {
    int const passes = micro_batches * V;
    int const warmup = detail::at_most((stages - rank - 1) * 2 + (V - 1) * stages, passes);
    auto const pass = [&](action what, int k) {
      int const chunk = k / stages % V;
      return instruction{what, k / (stages * V) * stages + k % stages, what == action::forward ? chunk : V - 1 - chunk};
    };
    program_builder p(stages, rank, V);
    for (int f = 0; f < warmup; ++f) p.slot({pass(action::forward, f)});
    for (int b = 0, f = warmup; b < passes; ++b, ++f)
      if (f < passes) p.slot({pass(action::forward, f), pass(action::backward, b)});
      else p.slot({pass(action::backward, b)});
    return p.finish();
  }
};

/// ZB-H1: 1F1B whose weight gradients come `rank` micro-batches late, so that gradients travel back sooner and the last
/// ranks have work at the end. No rank keeps more activations than the first one of 1F1B.
/// @source Qi et al. 2023, arXiv:2401.10241
template <>
struct schedule_for<zero_bubble> {
  static constexpr int chunks = 1;
  static constexpr int multiple(int) { return 1; }
  static constexpr program make(int stages, int rank, int micro_batches) {
    int const warmup = detail::at_most(stages - rank - 1, micro_batches);
    program_builder p(stages, rank, 1);
    for (int f = 0; f < warmup; ++f) p.slot({{action::forward, f}});
    for (int b = 0, f = warmup; b < micro_batches + rank; ++b, ++f) {
      instruction const input{action::input_backward, b}, weight{action::weight_backward, b - rank};
      if (f < micro_batches) p.slot({{action::forward, f}});
      // While there are forwards, the rank before waits for our gradient no sooner than we need its activations: after
      // the weight gradient. Then nothing is left to hide behind, and the gradient leaves at once.
      if (f + 1 < micro_batches && b >= rank) {
        p.slot({input, weight});
      } else {
        if (b < micro_batches) p.slot({input});
        if (b >= rank) p.slot({weight});
      }
    }
    return p.finish();
  }
};

/// The program of one rank, for degrees known at compile time or at run time.
/// @error argument_error: no such rank, or a number of micro-batches that the schedule cannot cut
template <PipelineSchedule S>
constexpr program make_program(int stages, int rank, int micro_batches) {
  if (rank < 0 || rank >= stages)
    throw argument_error("tenon::parallel: rank " + std::to_string(rank) + " of a pipeline of " +
                         std::to_string(stages) + " stages. Fix: a rank from 0 to stages - 1.");
  if (int const n = schedule_for<S>::multiple(stages); micro_batches < 1 || micro_batches % n != 0)
    throw argument_error("tenon::parallel: " + std::to_string(micro_batches) + " micro-batches in a pipeline of " +
                         std::to_string(stages) + " stages; this schedule takes multiples of " + std::to_string(n) +
                         ". Fix: a multiple, or the schedule one_f_one_b.");
  return schedule_for<S>::make(stages, rank, micro_batches);
}

/// The first thing found wrong with a schedule; `check_schedule` has a sentence for each.
enum class schedule_fault {
  none,
  unknown_index,
  runs_twice,
  missing,
  backward_too_early,
  not_received,
  sent_too_early,
  weight_order,
  mismatch,
  deadlock
};

/// Units of time that a chunk takes for one micro-batch.
struct schedule_costs {
  int forward = 1, input_backward = 1, weight_backward = 1;
};

/// An exact ratio.
struct fraction {
  index_t numerator, denominator;
  constexpr bool operator==(fraction const& o) const { return numerator * o.denominator == o.numerator * denominator; }
};

/// What became of a schedule. Without a fault it ended, and each pass ran once and after what it depends on.
struct simulation {
  schedule_fault fault = schedule_fault::none;
  index_t makespan = 0;
  index_t ideal = 0;             ///< time that a rank computes
  std::vector<int> live{};       ///< for each rank: most activations kept at once, in chunks of one micro-batch
  std::vector<int> transfers{};  ///< for each rank: messages sent and received
  constexpr fraction bubble() const { return {makespan - ideal, ideal}; }
};

namespace detail {

/// What one rank can do wrong by itself.
constexpr schedule_fault program_fault(program const& instructions, int stages, int rank, int chunks,
                                       int micro_batches) {
  enum : unsigned { activation_here = 1, forward_done = 2, gradient_here = 4, backward_done = 8 };
  std::vector<unsigned> states(std::size_t(chunks) * std::size_t(micro_batches), 0u);
  std::vector<int> weights_done(std::size_t(chunks), 0);
  auto const known = [&](auto const& i) {
    return i.micro_batch >= 0 && i.micro_batch < micro_batches && i.chunk >= 0 && i.chunk < chunks;
  };
  auto const state = [&](int chunk, int micro_batch) -> unsigned& {
    return states[std::size_t(chunk) * std::size_t(micro_batches) + std::size_t(micro_batch)];
  };
  for (auto const& i : instructions) {
    if (i.what == action::exchange) {
      for (auto const& t : i.transfers) {
        if (!known(t) || t.peer < 0 || t.peer >= stages || t.peer == rank) return schedule_fault::unknown_index;
        bool const activation = t.what == payload::activation;
        unsigned& s = state(t.chunk, t.micro_batch);
        if (t.way == direction::receive) s |= activation ? activation_here : gradient_here;
        else if (!(s & (activation ? forward_done : backward_done))) return schedule_fault::sent_too_early;
      }
      continue;
    }
    if (!known(i)) return schedule_fault::unknown_index;
    unsigned& s = state(i.chunk, i.micro_batch);
    if (stages == 1) {  // the neighbouring stages are this rank's own chunks
      if (i.chunk > 0 && state(i.chunk - 1, i.micro_batch) & forward_done) s |= activation_here;
      if (i.chunk + 1 < chunks && state(i.chunk + 1, i.micro_batch) & backward_done) s |= gradient_here;
    }
    int const stage = i.chunk * stages + rank;
    if (i.what == action::forward) {
      if (s & forward_done) return schedule_fault::runs_twice;
      if (stage > 0 && !(s & activation_here)) return schedule_fault::not_received;
      s |= forward_done;
    }
    if (i.what == action::backward || i.what == action::input_backward) {
      if (!(s & forward_done)) return schedule_fault::backward_too_early;
      if (s & backward_done) return schedule_fault::runs_twice;
      if (stage + 1 < stages * chunks && !(s & gradient_here)) return schedule_fault::not_received;
      s |= backward_done;
    }
    if (i.what == action::backward || i.what == action::weight_backward) {
      if (!(s & backward_done)) return schedule_fault::backward_too_early;
      if (i.micro_batch != weights_done[std::size_t(i.chunk)]++) return schedule_fault::weight_order;
    }
  }
  for (int done : weights_done)
    if (done != micro_batches) return schedule_fault::missing;
  return schedule_fault::none;
}

/// Runs programs without faults of their own side by side. A rank has one exchange open at most, so its partners are to
/// be found in the exchanges that are open.
class simulator {
 public:
  constexpr simulator(std::vector<program> const& p, schedule_costs const& c)
      : programs(p), costs(c), ranks(p.size(), rank_state{}) {}

  constexpr void run(simulation& result) {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t r = 0; r < ranks.size(); ++r)
        while (result.fault == schedule_fault::none && advance(r, result)) moved = true;
    }
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (result.fault == schedule_fault::none && ranks[r].at < programs[r].size())
        result.fault = schedule_fault::deadlock;
      if (result.makespan < ranks[r].clock) result.makespan = ranks[r].clock;
    }
  }

 private:
  struct rank_state {
    std::size_t at = 0;
    index_t clock = 0;
    index_t matched_at = 0;    ///< when the last partner of the open exchange was posted
    std::vector<char> open{};  ///< for each transfer of the open exchange: no partner yet
    std::size_t matches = 0;
    bool posted = false;
    int live = 0;
  };

  constexpr bool advance(std::size_t r, simulation& result) {
    auto& rank = ranks[r];
    if (rank.at == programs[r].size()) return false;
    auto const& i = programs[r][rank.at];
    if (i.what == action::exchange) {
      if (!rank.posted) return post(r, result), true;
      if (rank.matches < i.transfers.size()) return false;
      rank.clock = rank.matched_at;
      rank.posted = false;
      result.transfers[r] += int(i.transfers.size());
    } else {
      if (i.what == action::forward) rank.clock += costs.forward, ++rank.live;
      if (i.what == action::backward || i.what == action::input_backward) rank.clock += costs.input_backward;
      if (i.what == action::backward || i.what == action::weight_backward)
        rank.clock += costs.weight_backward, --rank.live;
      if (result.live[r] < rank.live) result.live[r] = rank.live;
    }
    ++rank.at;
    return true;
  }
  constexpr void post(std::size_t r, simulation& result) {
    auto& rank = ranks[r];
    auto const& transfers = programs[r][rank.at].transfers;
    rank.posted = true;
    rank.matched_at = rank.clock;
    rank.matches = 0;
    rank.open.assign(transfers.size(), true);
    for (std::size_t i = 0; i < transfers.size(); ++i) {
      auto& peer = ranks[std::size_t(transfers[i].peer)];
      if (!peer.posted) continue;
      auto const& theirs = programs[std::size_t(transfers[i].peer)][peer.at].transfers;
      for (std::size_t j = 0; j < theirs.size(); ++j) {
        if (!peer.open[j] || theirs[j].peer != int(r) || theirs[j].way == transfers[i].way) continue;
        if (!partners(transfers[i], theirs[j])) result.fault = schedule_fault::mismatch;
        rank.open[i] = peer.open[j] = false;
        ++rank.matches;
        ++peer.matches;
        if (rank.matched_at < peer.clock) rank.matched_at = peer.clock;
        if (peer.matched_at < rank.clock) peer.matched_at = rank.clock;
        break;
      }
    }
  }
  /// Both ends of a transfer mean the same: the receiver's stage is the one after the sender's, or before it.
  constexpr bool partners(transfer const& a, transfer const& b) const {
    int const stages = int(ranks.size());
    int const stage_a = a.chunk * stages + b.peer, stage_b = b.chunk * stages + a.peer;
    bool const up = (a.what == payload::activation) == (a.way == direction::send);
    return a.what == b.what && a.micro_batch == b.micro_batch && stage_b - stage_a == (up ? 1 : -1);
  }

  std::vector<program> const& programs;
  schedule_costs costs;
  std::vector<rank_state> ranks;
};

}  // namespace detail

/// Runs a schedule on paper: an exchange ends when every partner of its transfers has been posted (a send waits for its
/// receive), and takes no time.
/// @error as `make_program`   @test tests/parallel/schedule_test.cpp
template <PipelineSchedule S>
constexpr simulation simulate(int stages, int micro_batches, schedule_costs const& costs = {}) {
  constexpr int chunks = schedule_for<S>::chunks;
  simulation result;
  std::vector<program> programs;
  int r = 0;
  do {  // at least once: make_program refuses a pipeline without stages
    programs.push_back(make_program<S>(stages, r, micro_batches));
    result.fault = detail::program_fault(programs.back(), stages, r, chunks, micro_batches);
    if (result.fault != schedule_fault::none) return result;
  } while (++r < stages);
  result.ideal = index_t(micro_batches) * chunks * (costs.forward + costs.input_backward + costs.weight_backward);
  result.live.assign(std::size_t(stages), 0);
  result.transfers.assign(std::size_t(stages), 0);
  detail::simulator(programs, costs).run(result);
  return result;
}

// Each fault and its sentence, said by the compiler or by an exception.
#define TENON_SCHEDULE_FAULTS(fault)                                                                                 \
  fault(unknown_index,                                                                                               \
        "tenon::parallel: the schedule names a micro-batch, a chunk or a peer that does not exist. Fix: count from " \
        "0, and send to other ranks only.");                                                                         \
  fault(runs_twice,                                                                                                  \
        "tenon::parallel: the schedule runs a forward or a backward twice. Fix: once per micro-batch and chunk.");   \
  fault(missing,                                                                                                     \
        "tenon::parallel: the schedule forgets a forward or a backward. Fix: one of each per micro-batch and "       \
        "chunk, weight gradients included.");                                                                        \
  fault(backward_too_early,                                                                                          \
        "tenon::parallel: the schedule runs a backward before its forward, or a weight gradient before its input "   \
        "gradient. Fix: forward, input gradient, weight gradient for each micro-batch and chunk.");                  \
  fault(not_received,                                                                                                \
        "tenon::parallel: the schedule runs a forward or a backward whose input has not come from the "              \
        "neighbouring stage. Fix: an exchange before it that receives the input.");                                  \
  fault(sent_too_early,                                                                                              \
        "tenon::parallel: the schedule sends what has not been computed. Fix: the exchange after the forward or "    \
        "the backward that makes it.");                                                                              \
  fault(weight_order,                                                                                                \
        "tenon::parallel: the schedule makes weight gradients in another order than that of the micro-batches; it "  \
        "is the order of their sum. Fix: micro-batch 0, 1, 2, ... in each chunk.");                                  \
  fault(mismatch,                                                                                                    \
        "tenon::parallel: the schedule receives something else than what the peer sends; transfers between two "     \
        "ranks match in order. Fix: the same micro-batches in the same order on both sides.");                       \
  fault(deadlock,                                                                                                    \
        "tenon::parallel: the schedule never ends; ranks wait for transfers that their peers do not come to. "       \
        "Fix: one exchange for transfers that wait for each other, and one receive for each send.")

/// A schedule with a fault does not compile; the message says which one. Stages x micro-batches x chunks up to 256 stay
/// within what compilers evaluate by default; for more there is the function below.
template <class S, int Stages, int MicroBatches>
  requires(Stages >= 1 && MicroBatches >= 1)
consteval bool check_schedule() {
  static_assert(PipelineSchedule<S>,
                "tenon::parallel: the type is no pipeline schedule. Fix: one of tenon::gpipe, one_f_one_b, "
                "interleaved<V>, zero_bubble, or a specialisation of tenon::parallel::schedule_for.");
  if constexpr (PipelineSchedule<S>) {
    constexpr bool cuts = MicroBatches % schedule_for<S>::multiple(Stages) == 0;
    static_assert(cuts,
                  "tenon::parallel: the number of micro-batches does not fit the schedule; interleaved<V> takes a "
                  "multiple of the stages. Fix: such a number, or the schedule one_f_one_b.");
    if constexpr (cuts) {
      constexpr schedule_fault fault = simulate<S>(Stages, MicroBatches).fault;
#define TENON_SCHEDULE_FAULT(name, sentence) static_assert(fault != schedule_fault::name, sentence)
      TENON_SCHEDULE_FAULTS(TENON_SCHEDULE_FAULT);
#undef TENON_SCHEDULE_FAULT
    }
  }
  return true;
}

/// The same at run time, for degrees that are known then.
/// @error argument_error: the sentence that the compiler would have said
template <PipelineSchedule S>
void check_schedule(int stages, int micro_batches) {
  switch (simulate<S>(stages, micro_batches).fault) {
    case schedule_fault::none: break;
#define TENON_SCHEDULE_FAULT(name, sentence) \
  case schedule_fault::name: throw argument_error(sentence)
      TENON_SCHEDULE_FAULTS(TENON_SCHEDULE_FAULT);
#undef TENON_SCHEDULE_FAULT
  }
}
#undef TENON_SCHEDULE_FAULTS

}  // namespace tenon::parallel
