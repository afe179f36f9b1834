// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranks as threads of one process. Nobody copies what it can look at: ranks hand each other pointers.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <tenon/comm/communicator.hpp>
#include <tenon/comm/reduce.hpp>
#include <tenon/comm/watch.hpp>
#include <tenon/core/config.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/wait.hpp>
#include <tenon/policy/communicator.hpp>

namespace tenon::comm {

namespace detail {

// A counter that others wait for. It moves in steps of 4 and wraps; two bits say that it will not move any more.
using bell = std::atomic<std::uint32_t>;
inline constexpr std::uint32_t bell_failed = 1, bell_left = 2, bell_step = 4;
inline void ring(bell& b, std::uint32_t steps = 1) {
  b.fetch_add(steps * bell_step);
  b.notify_all();
}
inline void ring_last(bell& b, std::uint32_t why) {
  b.fetch_or(why);
  b.notify_all();
}

struct thread_group;

// What the ranks of one `threads::run` share.
struct thread_world {
  thread_world(int n, watch_options options) : counted(std::size_t(n)) {
    if (!(options.late_after > 0)) return;
    std::vector<int> all(counted.size());
    std::iota(all.begin(), all.end(), 0);
    watching = std::make_unique<watch>(options, zero_memory(watched_world::bytes(n)), n, std::move(all), false,
                                       [this](std::string const& report) {
                                         fail(0, std::make_exception_ptr(error(errc::comm_failed, report)), report);
                                       });
    watching->begin();
  }
  int size() const { return int(counted.size()); }
  void add(thread_group& g);
  void remove(thread_group& g) {
    std::lock_guard lock(mutex);
    std::erase(groups, &g);
  }
  // Rank `rank` returned, or throws (what is current, or will be): whoever waits for it must not wait for ever.
  void leave(int rank);
  void fail(int rank);
  void fail(int rank, std::exception_ptr why, std::string what);
  /// What a rank gets because another has failed, or its own other thread.
  struct followed : error {
    using error::error;
  };
  void check() {
    if (!failed.load(std::memory_order_acquire)) return;
    std::lock_guard lock(mutex);
    throw followed(errc::comm_failed, text);
  }

  struct alignas(cache_line_bytes) rank_counters : counters {};
  std::vector<rank_counters> counted;
  std::mutex mutex;
  std::vector<thread_group*> groups;
  std::atomic<bool> failed{false};
  int failed_rank = 0;         // the first: what others threw followed from it
  std::exception_ptr failure;  // its exception, once it is known
  std::string text;
  std::unique_ptr<watch> watching;  // last: it ends before what it looks at
};

// What the ranks of one group share.
struct thread_group {
  struct alignas(cache_line_bytes) member {
    // How far the rank is. Every operation is two steps: it looks at others' memory between them and at no other time.
    bell step{0};
    void const* shown = nullptr;             // what it shows to others, written before a step
    alignas(cache_line_bytes) bell mail{0};  // something changed in its mailboxes
    int world_rank = 0;
  };

  thread_group(std::shared_ptr<thread_world> w, std::vector<int> const& world_ranks)
      : world(std::move(w)), members(world_ranks.size()), mailboxes(world_ranks.size() * world_ranks.size()) {
    for (std::size_t r = 0; r < members.size(); ++r) members[r].world_rank = world_ranks[r];
    if (world->watching) board = zero_memory(watched_group::bytes(members.size()));
    world->add(*this);
  }
  ~thread_group() { world->remove(*this); }
  thread_group(thread_group const&) = delete;
  thread_group& operator=(thread_group const&) = delete;

  // The send that `from` offers to `to`; null once `to` has copied it.
  std::atomic<transfer const*>& mailbox(int from, int to) {
    return mailboxes[std::size_t(from) * members.size() + std::size_t(to)];
  }

  std::shared_ptr<thread_world> world;
  std::vector<member> members;
  std::vector<std::atomic<transfer const*>> mailboxes;
  std::shared_ptr<void> board;  // of the hang watch, or null
};

inline void thread_world::add(thread_group& g) {
  std::lock_guard lock(mutex);
  groups.push_back(&g);
  if (failed)
    for (auto& m : g.members) m.step |= bell_failed, m.mail |= bell_failed;
}
inline void thread_world::leave(int rank) {
  if (watching) watching->ended(rank);
  std::lock_guard lock(mutex);
  for (auto* g : groups)
    for (auto& m : g->members)
      if (m.world_rank == rank) {
        ring_last(m.step, bell_left);
        for (auto& other : g->members) ring(other.mail);
      }
}
inline void thread_world::fail(int rank) {
  auto const why = std::current_exception();
  std::string what = "rank " + std::to_string(rank) + " of " + std::to_string(size()) + " failed: ";
  try {
    if (why) std::rethrow_exception(why);
    what += "an exception is on its way";
  } catch (followed const&) {
    return;  // no reason of its own: a stream's, whose rank is about to say the real one
  } catch (std::exception const& e) {
    what += e.what();
  } catch (...) {
    what += "an exception of unknown type";
  }
  fail(rank, why, std::move(what));
}
inline void thread_world::fail(int rank, std::exception_ptr why, std::string what) {
  std::lock_guard lock(mutex);
  if (failed && (failed_rank != rank || failure)) return;
  failure = std::move(why);
  failed_rank = rank;
  text = std::move(what);
  failed.store(true);
  for (auto* g : groups)
    for (auto& m : g->members) ring_last(m.step, bell_failed), ring_last(m.mail, bell_failed);
}

}  // namespace detail

/// Ranks are threads of this process: one rank's handle of one group. `run` starts them.
/// A rank that throws ends the others: whoever waits for anybody gets error(comm_failed) with the rank and its message.
///
///     tenon::comm::threads::run(4, [](tenon::comm::threads& world) { ... world.rank() ... });
/// @test tests/comm/communicator_test.cpp
class threads {
 public:
  /// One rank's pointers are good for all.
  static constexpr bool one_process = true;
  /// f(world) on `ranks` threads, the caller being rank 0; returns when all have returned. Rethrows what the first rank
  /// to fail threw, or the report of the hang watch.
  template <class F>
  static void run(int ranks, F&& f, watch_options const& watching = watch_options::from_environment()) {
    if (ranks < 1) throw argument_error("a world of " + std::to_string(ranks) + " ranks. Fix: at least 1.");
    auto const world = std::make_shared<detail::thread_world>(ranks, watching);
    std::vector<int> all(static_cast<std::size_t>(ranks));
    std::iota(all.begin(), all.end(), 0);
    auto const group = std::make_shared<detail::thread_group>(world, all);
    auto const run_rank = [&](int rank) {
      try {
        if (world->watching) world->watching->own(rank);
        threads handle(group, rank);
        f(handle);
        world->leave(rank);
      } catch (...) {
        world->fail(rank);
        if (world->watching) world->watching->ended(rank);
      }
    };
    std::vector<std::thread> others;
    try {
      for (int r = 1; r < ranks; ++r) others.emplace_back(run_rank, r);
      run_rank(0);
    } catch (...) {  // the system has no more threads: those that began must not wait for the others
      world->fail(int(others.size()) + 1);
    }
    for (auto& t : others) t.join();
    if (world->failure) std::rethrow_exception(world->failure);
    world->check();
  }

  int rank() const { return me; }
  int ranks_here() const { return group->world->size(); }
  int size() const { return int(group->members.size()); }

  threads split(int color, int key) {
    auto const running = count(operation::split, 0, {});
    std::pair<int, int> const mine{color, key};
    std::vector<std::pair<int, int>> ranks;  // key and rank of those that will be in the group
    together(&mine, [&] {
      for (int p = 0; p < size(); ++p)
        if (auto const& its = *shown<std::pair<int, int> const>(p); its.first == color)
          ranks.emplace_back(its.second, p);
    });
    std::sort(ranks.begin(), ranks.end());
    using group_pointer = std::shared_ptr<detail::thread_group>;
    group_pointer made, joined;
    if (ranks[0].second == me) {
      std::vector<int> world_ranks;
      for (auto const& r : ranks) world_ranks.push_back(member(r.second).world_rank);
      made = std::make_shared<detail::thread_group>(group->world, world_ranks);
    }
    together(&made, [&] { joined = *shown<group_pointer const>(ranks[0].second); });
    return {joined, int(std::find(ranks.begin(), ranks.end(), std::pair(key, me)) - ranks.begin())};
  }
  void barrier() {
    auto const running = count(operation::barrier, 0, {});
    step(2);
    wait_for_others();
  }
  void broadcast(std::span<std::byte> bytes, int root) {
    auto const running = count(operation::broadcast, detail::sent_by_broadcast(bytes.size(), me == root, size()),
                               {.bytes = bytes.size(), .root = root});
    member(me).shown = bytes.data();
    guarded([&] {
      step();
      if (me != root) {
        wait_for(root);
        copy(bytes.data(), shown<std::byte const>(root), bytes.size());
      }
      step();
      if (me == root) wait_for_others();
    });
  }
  void all_gather(std::span<std::byte> whole, std::span<std::size_t const> cuts) {
    auto const running =
        count(operation::all_gather, detail::sent_by_all_gather(cuts, me), {.bytes = whole.size(), .cuts = cuts});
    together(whole.data(), [&] {
      for_others([&](int p) {
        auto const [begin, end] = cut(cuts, p);
        copy(whole.data() + begin, shown<std::byte const>(p) + begin, end - begin);
      });
    });
  }
  void all_to_all(std::span<std::span<std::byte const> const> sends, std::span<std::span<std::byte> const> receives) {
    auto const running =
        count(operation::all_to_all, detail::sent_by_all_to_all(sends, me), {.sends = sends, .receives = receives});
    together(sends.data(), [&] {
      auto const receive = [&](int p) {
        std::span<std::byte const> const from = shown<std::span<std::byte const> const>(p)[me];
        std::span<std::byte> const to = receives[std::size_t(p)];
        check_sizes(p, from.size(), to.size());
        if (from.data() != to.data()) copy(to.data(), from.data(), to.size());
      };
      for_others(receive);
      receive(me);
    });
  }
  void exchange(std::span<transfer const> transfers) {
    auto const running = count(operation::exchange, detail::sent_by_exchange(transfers), {.transfers = transfers});
    state.assign(transfers.size(), waiting);
    try {
      while (true) {
        // What changes after this is seen by the wait below: it returns at once.
        std::uint32_t const seen = member(me).mail.load(std::memory_order_acquire);
        group->world->check();
        bool open = false;
        for (std::size_t i = 0; i < transfers.size(); ++i) open |= !advance(transfers, i);
        if (!open) return;
        for (std::size_t i = 0; i < transfers.size(); ++i)
          if (state[i] != done && left(transfers[i].peer) && member(me).mail.load() == seen)
            throw_left(transfers[i].peer);
        wait_until(member(me).mail, [&](std::uint32_t now) { return now != seen; });
      }
    } catch (...) {  // nobody may read what is offered once this returns
      group->world->fail(member(me).world_rank);
      for (std::size_t i = 0; i < transfers.size(); ++i) {
        transfer const* offer = &transfers[i];
        if (state[i] != offered || group->mailbox(me, offer->peer).compare_exchange_strong(offer, nullptr)) continue;
        for (int turn = 0; group->mailbox(me, transfers[i].peer).load(std::memory_order_acquire);) spin_pause(++turn);
      }
      throw;
    }
  }
  void sum(std::span<std::int64_t> integers) {
    auto const running =
        count(operation::sum, detail::sent_by_sum(integers.size_bytes(), size()), {.bytes = integers.size_bytes()});
    auto const cuts = even_cuts(integers.size(), size(), cache_line_bytes / sizeof(std::int64_t));
    together(integers.data(), [&] {
      for (std::size_t i = cuts[std::size_t(me)]; i < cuts[std::size_t(me) + 1]; ++i) {
        std::int64_t total = 0;
        for (int p = 0; p < size(); ++p) total += shown<std::int64_t>(p)[i];
        for (int p = 0; p < size(); ++p) shown<std::int64_t>(p)[i] = total;
      }
    });
  }
  template <class Consume>
  void visit_shards(std::span<float const* const> mine, std::span<int const> vectors_of,
                    std::span<std::size_t const> cuts, Consume&& consume) {
    auto const running =
        count(operation::reduce_scatter, detail::sent_by_visit(mine.size(), cuts, me),
              {.bytes = (cuts.back() - cuts.front()) * sizeof(float), .cuts = cuts, .counts = vectors_of});
    together(mine.data(), [&] {
      auto const [begin, end] = cut(cuts, me);
      vectors.clear();
      for (int p = 0; p < size(); ++p)
        for (int i = 0; i < vectors_of[std::size_t(p)]; ++i) vectors.push_back(shown<float const* const>(p)[i] + begin);
      if (begin < end) consume(begin, end, std::span<float const* const>(vectors));
    });
  }
  /// What comm::all_reduce does, in one pass over memory: each rank adds its shard and writes the sum to all.
  void all_reduce(std::span<float> data) {
    auto const cuts = even_cuts(data.size(), size(), std::size_t(lanes));
    auto const [begin, end] = cut(cuts, me);
    auto const scattering = count(operation::reduce_scatter, (data.size() - (end - begin)) * sizeof(float),
                                  {.bytes = data.size_bytes(), .cuts = cuts});
    auto const gathering = detail::begin_operation(traffic(), profiler, operation::all_gather,
                                                   (end - begin) * sizeof(float) * std::size_t(size() - 1));
    together(data.data(), [&, first = begin, n = end - begin] {
      if (size() == 2) {
        float *TENON_RESTRICT const a = shown<float>(0) + first, *TENON_RESTRICT const b = shown<float>(1) + first;
        for (std::size_t i = 0; i < n; ++i) a[i] = b[i] = a[i] + b[i];
        return;
      }
      vectors.clear();
      for (int p = 0; p < size(); ++p) vectors.push_back(shown<float>(p) + first);
      node_sum const add(size());
      add(vectors, n, [&](std::size_t from, std::size_t to, float const* sums) {
        for (int p = 0; p < size(); ++p) std::copy(sums, sums + (to - from), shown<float>(p) + first + from);
      });
    });
  }
  /// The ranks that do not come here within `seconds`; all ranks call it.
  std::vector<int> missing_after(double seconds) {
    step(2);
    std::vector<int> missing;
    auto const deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (int p = 0; p < size(); ++p) {
      auto const here = [&] { return at_least(member(p).step.load(std::memory_order_acquire)); };
      while (!here() && std::chrono::steady_clock::now() < deadline) {
        group->world->check();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      if (!here()) missing.push_back(p);
    }
    group->world->check();
    return missing;
  }
  /// This rank is failing: whatever another thread of it, or anybody else, waits for ends.
  void abandon() { group->world->fail(member(me).world_rank); }
  counters& traffic() { return group->world->counted[std::size_t(member(me).world_rank)]; }
  profile::recorder* profiler = nullptr;

 private:
  enum : char { waiting, offered, done };  // a transfer's state

  threads(std::shared_ptr<detail::thread_group> g, int rank) : group(std::move(g)), me(rank) {
    if (!group->board) return;
    std::vector<int> world_ranks;
    for (auto const& m : group->members) world_ranks.push_back(m.world_rank);
    watched =
        std::make_unique<detail::watched_group>(*group->world->watching, group->board, std::move(world_ranks), me);
  }

  detail::running count(operation o, std::size_t sent, detail::watched_arguments arguments) {
    arguments.what = o;
    return {watched.get(), arguments, traffic(), profiler, sent};
  }
  detail::thread_group::member& member(int p) const { return group->members[std::size_t(p)]; }
  template <class T>
  T* shown(int p) const {
    return static_cast<T*>(const_cast<void*>(member(p).shown));
  }
  template <class F>
  void for_others(F&& f) {  // each rank begins with its neighbour, so that they do not all read the same memory
    for (int i = 1; i < size(); ++i) f((me + i) % size());
  }
  static std::pair<std::size_t, std::size_t> cut(std::span<std::size_t const> cuts, int p) {
    return {cuts[std::size_t(p)], cuts[std::size_t(p) + 1]};
  }
  static void copy(std::byte* to, std::byte const* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void check_sizes(int peer, std::size_t sent, std::size_t expected) const {
    if (sent != expected)
      throw error(errc::comm_failed, "rank " + std::to_string(peer) + " sends " + std::to_string(sent) +
                                         " bytes where rank " + std::to_string(me) + " expects " +
                                         std::to_string(expected) + ". Fix: both must name the same size.");
  }

  // Tries to bring a transfer on; true once it is done.
  bool advance(std::span<transfer const> transfers, std::size_t i) {
    static constexpr transfer taken{};
    transfer const& t = transfers[i];
    if (state[i] == done) return true;
    auto& box = t.sends ? group->mailbox(me, t.peer) : group->mailbox(t.peer, me);
    transfer const* held = box.load(std::memory_order_acquire);
    if (state[i] == offered) {
      if (held) return false;
      state[i] = done;
      return true;
    }
    for (std::size_t before = 0; before < i; ++before)  // in order between two ranks
      if (state[before] != done && transfers[before].peer == t.peer && transfers[before].sends == t.sends) return false;
    if (t.sends) {
      box.store(&t, std::memory_order_release);
      state[i] = offered;
    } else {
      if (!held || !box.compare_exchange_strong(held, &taken)) return false;
      transfer const offer = *held;
      if (offer.bytes == t.bytes)
        copy(static_cast<std::byte*>(t.data), static_cast<std::byte const*>(offer.data), t.bytes);
      box.store(nullptr, std::memory_order_release);
      check_sizes(t.peer, offer.bytes, t.bytes);
      state[i] = done;
    }
    detail::ring(member(t.peer).mail);
    return state[i] == done;
  }

  // Every rank shows something; read() looks at what others show and may write where they agreed that it may.
  template <class F>
  void together(void const* p, F&& read) {
    member(me).shown = p;
    guarded([&] {
      step();
      wait_for_others();
      read();
      step();
      wait_for_others();
    });
  }
  // Whatever goes wrong in an operation, this rank stays until nobody looks at its memory any more.
  template <class F>
  void guarded(F&& f) {
    try {
      f();
    } catch (...) {
      group->world->fail(member(me).world_rank);
      if (at & detail::bell_step) step();
      for_others(
          [&](int p) { wait_until(member(p).step, [](std::uint32_t its) { return (its & detail::bell_step) == 0; }); });
      throw;
    }
  }
  void step(std::uint32_t steps = 1) {
    at += steps * detail::bell_step;
    detail::ring(member(me).step, steps);
  }
  void wait_for_others() {
    for_others([&](int p) { wait_for(p); });
  }
  bool at_least(std::uint32_t step) const { return std::int32_t(step - at) >= 0; }
  void wait_for(int p) {
    std::uint32_t const now = wait_until(member(p).step, [&](std::uint32_t step) {
      return at_least(step) || (step & (detail::bell_failed | detail::bell_left));
    });
    group->world->check();
    if (!at_least(now)) throw_left(p);
  }
  bool left(int p) const { return member(p).step.load(std::memory_order_acquire) & detail::bell_left; }
  [[noreturn]] void throw_left(int p) const {
    if (watched) watched->fail_missing(p);
    throw error(errc::comm_failed, "rank " + std::to_string(p) + " of " + std::to_string(size()) +
                                       " has ended while rank " + std::to_string(me) +
                                       " waits for it. Fix: all ranks of a group must make the same calls.");
  }

  std::shared_ptr<detail::thread_group> group;
  int me;
  std::uint32_t at = 0;  // this rank's step
  std::vector<float const*> vectors;
  std::vector<char> state;
  std::unique_ptr<detail::watched_group> watched;  // null: not watched
};

}  // namespace tenon::comm
