// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The hang watch. Every rank writes what it is about to call into memory that all ranks of a host share, and
/// compares it with what the others wrote; a thread beside them looks for ranks that died, ended or do not come.
/// docs/reliability.md says what is found how fast, docs/decisions/0018 why it is a switch.   @test tests/comm/watch_test.cpp
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <tenon/comm/communicator.hpp>
#include <tenon/comm/site.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/wait.hpp>

namespace tenon::comm {

struct watch_options {
  double late_after = 0;  ///< seconds that ranks may wait for one that does not come; 0: nothing is watched
  double grace = 10;      ///< seconds until a rank that was not reached by a report is ended with its process

  /// late_after is TENON_WATCH of the environment.
  static watch_options from_environment() {
    watch_options o;
    char const* const text = std::getenv("TENON_WATCH");  // NOLINT(concurrency-mt-unsafe): nobody sets it
    if (!text) return o;
    std::string_view const given = text;
    auto const [end, code] = std::from_chars(given.data(), given.data() + given.size(), o.late_after);
    if (code != std::errc() || end != given.data() + given.size() || !(o.late_after > 0))
      throw argument_error("TENON_WATCH is '" + std::string(given) +
                           "'. Fix: the seconds that ranks may wait for one that does not come, as in TENON_WATCH=30.");
    return o;
  }
};

namespace detail {

// All that is shared is plain memory, zero at first, that both threads and processes reach by these.
template <class T>
T load(T const& at) {
  return std::atomic_ref(const_cast<T&>(at)).load();
}
template <class T>
void store(T& at, T value) {
  std::atomic_ref(at).store(value);
}

// What must be the same on all ranks of a collective; what is not given is not compared.
struct watched_arguments {
  operation what{};
  std::size_t bytes = 0;
  int root = -1;
  std::span<std::size_t const> cuts{};
  std::span<int const> counts{};
  // Of an exchange or an all_to_all.
  std::span<transfer const> transfers{};
  std::span<std::span<std::byte const> const> sends{};
  std::span<std::span<std::byte> const> receives{};
};

// What one rank said about one call.
struct watched_call {
  std::uint64_t hash = 0;
  std::uint64_t bytes = 0;
  std::uint64_t number = 0;  // of the group's collectives, from 1; 0: an exchange
  operation what{};
  std::int32_t root = -1;
  std::array<char, 96> where{};

  watched_call() = default;
  explicit watched_call(watched_arguments const& a) : bytes(a.bytes), what(a.what), root(a.root) {
    std::string_view const place = current_site.write(where);
    hash = 0xcbf29ce484222325;
    auto const mix = [this](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
    mix(std::uint64_t(what)), mix(bytes), mix(std::uint64_t(root));
    for (std::size_t c : a.cuts) mix(c);
    for (int n : a.counts) mix(std::uint64_t(n));
    for (char c : place) mix(std::uint64_t(c));
  }
  std::string text() const {
    static constexpr std::array<char const*, operations> elements{" of floats", "", "", "", " of int64", "", "", ""};
    if (!hash) return "none";  // all zero: there was none
    std::string t = operation_names[std::size_t(what)];
    if (bytes) t += " of " + std::to_string(bytes) + " bytes" + elements[std::size_t(what)];
    if (root >= 0) t += " from member " + std::to_string(root);
    if (where[0]) (t += " at ") += where.data();
    if (number) t += " (call " + std::to_string(number) + " of its group)";
    return t;
  }
};
// Reads what a rank may be writing: a torn text is still one.
using call_words = std::array<std::uint64_t, sizeof(watched_call) / sizeof(std::uint64_t)>;
inline void write_call(call_words& to, watched_call const& call) {
  auto const words = std::bit_cast<call_words>(call);
  for (std::size_t i = 0; i < words.size(); ++i) std::atomic_ref(to[i]).store(words[i], std::memory_order_relaxed);
}
inline watched_call read_call(call_words const& from) {
  call_words words;
  for (std::size_t i = 0; i < words.size(); ++i)
    words[i] = std::atomic_ref(const_cast<std::uint64_t&>(from[i])).load(std::memory_order_relaxed);
  auto call = std::bit_cast<watched_call>(words);
  call.where.back() = 0;
  if (std::size_t(call.what) >= operations) call.what = operation{};
  return call;
}

// The last calls of one rank in one group, or those of its transfers with one peer.
struct watched_lane {
  static constexpr std::size_t depth = 32;  // a rank that is so far ahead waits: what it says must be compared
  std::uint64_t count;
  std::array<call_words, depth> calls;
  watched_call call(std::uint64_t number) const { return read_call(calls[number % depth]); }
};
// A rank in a group.
struct watched_member {
  std::int64_t since;        // when it began the call that it is in; 0: in none
  std::uint64_t peers;       // bit p % 64: it exchanges with p
  std::uint32_t collective;  // it waits for all
};
// A rank in the world.
struct watched_rank {
  std::uint64_t process;  // 0: on another host
  std::int64_t beat;      // when its watch last looked
  std::uint32_t ended, inside;
  std::uint64_t waits_for;  // 1 + the rank that it waits for; 0: for none. Its watch says so.
  call_words last;
};
struct watched_world {
  std::uint32_t claimed, ready;
  std::array<char, 1528> text;  // of the one report there is
  watched_rank& rank(int r) { return reinterpret_cast<watched_rank*>(this + 1)[r]; }
  static std::size_t bytes(int ranks) { return sizeof(watched_world) + std::size_t(ranks) * sizeof(watched_rank); }
};
static_assert(sizeof(watched_world) % alignof(watched_rank) == 0);

inline std::int64_t watch_now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
inline double seconds_between(std::int64_t from, std::int64_t to) {
  return std::chrono::duration<double>(std::chrono::steady_clock::duration(to - from)).count();
}
inline std::string hundredths(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f s", seconds);
  return text;
}
inline std::shared_ptr<void> zero_memory(std::size_t bytes) {
  void* const p = std::calloc(1, bytes);  // pages that nobody writes are never there
  if (!p)
    throw error(errc::out_of_memory,
                "no " + std::to_string(bytes) + " bytes for the hang watch. Fix: unset TENON_WATCH.");
  return {p, std::free};
}

class watched_group;

// The watch of the ranks of one process.
class watch {
 public:
  using end_function = std::function<void(std::string const&)>;
  /// @param here the ranks that are in this process
  /// @param prints processes say by themselves what is wrong: their launcher may end them at any moment
  /// @param end ends whatever these ranks wait for; from any thread, more than once
  watch(watch_options o, std::shared_ptr<void> board, int world_size, std::vector<int> here, bool prints_report,
        end_function end)
      : options(o), memory(std::move(board)), world(*static_cast<watched_world*>(memory.get())), ranks(world_size),
        mine(std::move(here)), owners(mine.size()), prints(prints_report), end_waits(std::move(end)) {
    for (int r : mine) {
      store(world.rank(r).beat, watch_now());
      store(world.rank(r).process, std::uint64_t(getpid()));
    }
  }
  ~watch() {
    stopping = true;
    if (thread.joinable()) thread.join();
  }
  watch(watch const&) = delete;
  watch& operator=(watch const&) = delete;

  /// Once all ranks have made theirs.
  void begin() {
    thread = std::thread([this] { run(); });
  }
  /// This thread is the one that rank `r` is told on.
  void own(int r) { owner(r).id = std::this_thread::get_id(); }
  void ended(int r) {
    store(world.rank(r).ended, 1u);
    owner(r).told = true;
  }
  /// Throws the report, if there is one.
  void check(int r) {
    if (!load(world.ready)) return;
    if (owner(r).id == std::this_thread::get_id()) owner(r).told = true;
    throw error(errc::comm_failed, world.text.data());
  }
  /// Makes the first report of all ranks; who is not the first gets the first one's. Returns when there is one.
  void report(std::string const& text) {
    std::uint32_t unclaimed = 0;
    if (std::atomic_ref(world.claimed).compare_exchange_strong(unclaimed, 1)) {
      std::copy_n(text.data(), std::min(text.size(), world.text.size() - 1), world.text.data());
      if (prints) std::fprintf(stderr, "%s\n", world.text.data()), std::fflush(stderr);
      store(world.ready, 1u);
    }
    while (!load(world.ready)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    end_waits(world.text.data());
  }
  bool reported() const { return load(world.ready); }
  watched_rank& rank(int r) const { return world.rank(r); }
  std::string name(int r) const { return "rank " + std::to_string(r) + " of " + std::to_string(ranks); }
  /// On rank `missing`, for which rank `waits` has waited.
  std::string late_report(int waits, int missing, double waited, std::int64_t now) const;

  void add(watched_group* g) {
    std::lock_guard lock(mutex);
    groups.push_back(g);
  }
  void remove(watched_group* g) {
    std::lock_guard lock(mutex);
    std::erase(groups, g);
  }

 private:
  struct owner_thread {
    std::thread::id id;
    std::atomic<bool> told{false};
  };
  owner_thread& owner(int r) { return owners[std::size_t(std::find(mine.begin(), mine.end(), r) - mine.begin())]; }
  void run();
  std::string find_late(std::int64_t now);
  std::string find_dead(std::int64_t now);
  void wait_for_the_told();

  watch_options options;
  std::shared_ptr<void> memory;
  watched_world& world;
  int ranks;
  std::vector<int> mine;
  std::vector<owner_thread> owners;
  bool prints;
  end_function end_waits;
  std::mutex mutex;
  std::vector<watched_group*> groups;
  std::atomic<bool> stopping{false};
  std::thread thread;
};

// One rank in one group, as its watch knows it. The board is the same memory for all its ranks on this host.
class watched_group {
 public:
  static std::size_t bytes(std::size_t ranks) {
    return ranks * sizeof(watched_member) + (ranks + 2 * ranks * ranks) * sizeof(watched_lane);
  }
  /// @param world_ranks of its members
  watched_group(watch& w, std::shared_ptr<void> board, std::vector<int> world_ranks, int rank)
      : guard(w), memory(std::move(board)), members(std::move(world_ranks)), me(rank) {
    guard.add(this);
  }
  ~watched_group() { guard.remove(this); }
  watched_group(watched_group const&) = delete;
  watched_group& operator=(watched_group const&) = delete;

  /// A call, from its beginning to its end; nothing with a null group.
  /// @error error(comm_failed) when this rank and another differ
  class inside {
   public:
    inside(watched_group* g, watched_arguments const& a) : group(g) {
      if (group) group->enter(a);
    }
    ~inside() {
      if (group) group->leave();
    }
    inside(inside const&) = delete;
    inside& operator=(inside const&) = delete;

   private:
    watched_group* group;
  };

  /// The first rank of the world that this one waits for, or -1.
  int missing() const {
    if (load(member(me).since))
      for (int p = 0; p < size(); ++p)
        if (p != me && here(p) && waits_for(p)) return members[std::size_t(p)];
    return -1;
  }
  int world_rank() const { return members[std::size_t(me)]; }
  double waited(std::int64_t now) const {
    std::int64_t const since = load(member(me).since);
    return since ? seconds_between(since, now) : 0;
  }
  /// Throws the report, for which it waits for as many seconds at most.
  void throw_report(double seconds) const {
    std::int64_t const begin = watch_now();
    while (!guard.reported() && seconds_between(begin, watch_now()) < seconds)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    guard.check(world_rank());
  }
  /// Reports that rank p, which this one waits for, has ended.
  [[noreturn]] void fail_missing(int p) {
    std::int64_t const now = watch_now();
    fail(guard.late_report(world_rank(), members[std::size_t(p)], waited(now), now));
  }

 private:
  int size() const { return int(members.size()); }
  watched_member& member(int p) const { return static_cast<watched_member*>(memory.get())[p]; }
  watched_lane& lane(int i) const { return reinterpret_cast<watched_lane*>(&member(size()))[i]; }
  // What `of` says about transfers from `from` to `to`, one of which it is.
  watched_lane& pair(int from, int to, int of) const {
    return lane(size() * (1 + (of == from ? 0 : size()) + from) + to);
  }
  bool here(int p) const { return load(guard.rank(members[std::size_t(p)]).process); }
  bool waits_for(int p) const {
    auto const behind = [](watched_lane const& a, watched_lane const& b) { return load(a.count) < load(b.count); };
    if (load(member(me).collective)) return behind(lane(p), lane(me));
    return (load(member(me).peers) >> (p % 64) & 1) &&
           (behind(pair(me, p, p), pair(me, p, me)) || behind(pair(p, me, p), pair(p, me, me)));
  }

  void enter(watched_arguments const& a) {
    guard.check(members[std::size_t(me)]);
    watched_call call(a);
    bool const collective = a.what != operation::exchange;
    if (collective) call.number = load(lane(me).count) + 1;
    auto& own = guard.rank(members[std::size_t(me)]);
    write_call(own.last, call);
    std::uint64_t peers = 0;
    for (auto const& t : a.transfers) peers |= std::uint64_t(1) << (t.peer % 64);
    store(member(me).collective, std::uint32_t(collective));
    store(member(me).peers, peers);
    std::atomic_ref(own.inside).fetch_add(1);
    store(member(me).since, watch_now());
    try {
      if (collective) publish(call);
      for (auto const& t : a.transfers) publish(call, t.peer, t.sends, t.bytes);
      for (int p = 0; p < int(a.sends.size()); ++p) {
        if (p == me) continue;
        publish(call, p, true, a.sends[std::size_t(p)].size());
        publish(call, p, false, a.receives[std::size_t(p)].size());
      }
    } catch (...) {
      leave();
      throw;
    }
  }
  void leave() {
    store(member(me).since, std::int64_t(0));
    std::atomic_ref(guard.rank(members[std::size_t(me)]).inside).fetch_sub(1);
  }
  // What the other said `depth` calls ago has been compared by the time that call `number` is written.
  void wait_for_room(std::uint64_t number, watched_lane const& other) {
    for (int turn = 0; load(other.count) + watched_lane::depth < number + 2; spin_pause(++turn))
      guard.check(members[std::size_t(me)]);
  }
  void publish(watched_call const& call) {
    auto& own = lane(me);
    std::uint64_t const k = load(own.count);
    for (int p = 0; p < size(); ++p)
      if (p != me && here(p)) wait_for_room(k, lane(p));
    write_call(own.calls[k % watched_lane::depth], call);
    store(own.count, k + 1);  // of two ranks, one sees what the other wrote
    for (int p = 0; p < size(); ++p)
      if (p != me && here(p) && load(lane(p).count) > k && lane(p).call(k).hash != call.hash) differ(k);
  }
  void publish(watched_call call, int peer, bool sends, std::size_t bytes) {
    int const from = sends ? me : peer, to = sends ? peer : me;
    if (!here(peer)) return;
    auto &own = pair(from, to, me), &other = pair(from, to, peer);
    call.bytes = bytes;
    std::uint64_t const k = load(own.count);
    wait_for_room(k, other);
    write_call(own.calls[k % watched_lane::depth], call);
    store(own.count, k + 1);
    if (load(other.count) <= k || other.call(k).bytes == bytes) return;
    auto const said = [&](int of) {
      auto const c = pair(from, to, of).call(k);
      return std::to_string(c.bytes) + " bytes in " + operation_names[std::size_t(c.what)] +
             (c.where[0] ? " at " + std::string(c.where.data()) : "");
    };
    fail("hang watch: " + guard.name(members[std::size_t(from)]) + " sends " + said(from) + " where rank " +
         std::to_string(members[std::size_t(to)]) + " expects " + said(to) + " (transfer " + std::to_string(k + 1) +
         " between them). Fix: both must name the same size.");
  }
  // This rank and another differ in call k: what most say is expected.
  [[noreturn]] void differ(std::uint64_t k) {
    auto const came = [&](int p) { return load(lane(p).count) > k; };
    for (int turn = 0; turn < 200 && !guard.reported(); ++turn) {
      int missing = 0;
      for (int p = 0; p < size(); ++p) missing += here(p) && !came(p);
      if (!missing) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::map<std::uint64_t, std::vector<int>> said;
    for (int p = 0; p < size(); ++p)
      if (came(p)) said[lane(p).call(k).hash].push_back(p);
    auto const most = std::max_element(said.begin(), said.end(), [](auto const& a, auto const& b) {
      return a.second.size() != b.second.size() ? a.second.size() < b.second.size() : a.second[0] > b.second[0];
    });
    std::string got;
    for (auto const& [hash, ranks] : said)
      for (int p : ranks)
        if (hash != most->first)
          got +=
              (got.empty() ? "" : ", ") + guard.name(members[std::size_t(p)]) + " came with " + lane(p).call(k).text();
    auto const& others = most->second;
    fail("hang watch: " + got + ", where " +
         (others.size() == 1 ? "rank " + std::to_string(members[std::size_t(others[0])]) + " expects "
                             : std::to_string(others.size()) + " ranks expect ") +
         lane(others[0]).call(k).text() + ". Fix: all ranks of a group must make the same calls in the same order.");
  }
  [[noreturn]] void fail(std::string const& text) {
    guard.report(text);
    guard.check(members[std::size_t(me)]);
    std::abort();  // not reached: there is a report
  }

  watch& guard;
  std::shared_ptr<void> memory;
  std::vector<int> members;
  int me;
};

// An operation of a communicator: watched, counted and recorded for as long as this lives.
class running {
 public:
  running(watched_group* g, watched_arguments const& a, counters& all, profile::recorder* profiler, std::size_t sent)
      : called(g, a), recorded(begin_operation(all, profiler, a.what, sent)) {}

 private:
  watched_group::inside called;
  profile::range recorded;
};

inline void watch::run() {
  while (!stopping) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::int64_t const now = watch_now();
    for (int r : mine) store(world.rank(r).beat, now);
    if (!load(world.ready)) {
      std::string text = find_dead(now);
      if (text.empty()) text = find_late(now);
      if (text.empty()) continue;
      report(text);
    }
    end_waits(world.text.data());
    return wait_for_the_told();
  }
}
// Follows who waits for whom to a rank that waits for nobody, or round a circle.
inline std::string watch::find_late(std::int64_t now) {
  std::lock_guard lock(mutex);
  for (int r : mine) {  // stored once: other processes look at any moment
    std::uint64_t waits_for = 0;
    for (auto* g : groups)
      if (int const missing = g->world_rank() == r ? g->missing() : -1; missing >= 0)
        waits_for = std::uint64_t(missing) + 1;
    store(world.rank(r).waits_for, waits_for);
  }
  for (auto* g : groups) {
    int at = g->missing();
    if (at < 0) continue;
    double const waited = g->waited(now);
    std::vector<int> chain{g->world_rank()};
    while (std::find(chain.begin(), chain.end(), at) == chain.end()) {
      chain.push_back(at);
      auto const next = load(world.rank(at).waits_for);
      if (!next) break;
      at = int(next) - 1;
    }
    if (at == chain.back()) {
      // One that is in a call may wait itself, and its watch has not said so yet.
      double const limit = load(world.rank(at).inside) ? 2 * options.late_after : options.late_after;
      if (load(world.rank(at).ended) || waited > limit) return late_report(chain[chain.size() - 2], at, waited, now);
    } else if (waited > 2 * options.late_after) {
      std::string circle;
      for (auto r = std::find(chain.begin(), chain.end(), at); r != chain.end(); ++r)
        circle += (circle.empty() ? "" : ", ") + name(*r) + " in " + read_call(world.rank(*r).last).text() +
                  " for rank " + std::to_string(r + 1 == chain.end() ? at : r[1]);
      return "hang watch: ranks have waited for each other for " + hundredths(waited) + ": " + circle +
             ". Fix: all ranks of a group must make the same calls in the same order.";
    }
  }
  return {};
}
inline std::string watch::late_report(int waits, int missing, double waited, std::int64_t now) const {
  auto const& its = world.rank(missing);
  std::string const last = read_call(its.last).text();
  return "hang watch: " + name(missing) + " has not come to " + read_call(world.rank(waits).last).text() +
         ", where rank " + std::to_string(waits) + " waits for it; waited " + hundredths(waited) + ". It " +
         (load(its.ended)                                             ? "has ended; its last call was " + last
          : seconds_between(load(its.beat), now) > options.late_after ? "is stopped; its last call was " + last
          : load(its.inside)                                          ? "is in " + last
                                                                      : "is in no call; its last was " + last) +
         ". Fix: all ranks of a group must make the same calls; if it only takes longer, raise TENON_WATCH.";
}
// A process that was killed. Its number alone says little: it may belong to another container.
inline std::string watch::find_dead(std::int64_t now) {
  for (int r = 0; r < ranks; ++r) {
    auto& its = world.rank(r);
    std::uint64_t const process = load(its.process);
    if (!process || load(its.ended) || seconds_between(load(its.beat), now) < 0.2) continue;
    if (kill(pid_t(process), 0) == 0 || errno != ESRCH) continue;
    return "hang watch: " + name(r) + " (process " + std::to_string(process) + ") has died; its last call was " +
           read_call(its.last).text() + ". Fix: see what it printed last, and the system's log.";
  }
  return {};
}
inline void watch::wait_for_the_told() {
  std::int64_t const begin = watch_now();
  while (!stopping) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (std::all_of(owners.begin(), owners.end(), [](auto const& o) { return o.told.load(); })) return;
    if (seconds_between(begin, watch_now()) < options.grace) continue;
    if (!prints) std::fprintf(stderr, "%s\n", world.text.data());
    std::fprintf(stderr, "a rank that does not come back ends this process\n");
    std::_Exit(1);
  }
}

}  // namespace detail
}  // namespace tenon::comm
