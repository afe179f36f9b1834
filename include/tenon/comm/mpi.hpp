// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranks as MPI processes. Needs mpi.h: link tenon::mpi, and include this header by name.
#include <fcntl.h>
#include <mpi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <tenon/comm/check.hpp>
#include <tenon/comm/communicator.hpp>
#include <tenon/comm/watch.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/policy/communicator.hpp>

namespace tenon::comm {

namespace detail {

/// Throws when an MPI function did not return MPI_SUCCESS.
inline void check_mpi(int code, char const* function) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw error(errc::comm_failed, std::string(function) + ": " + text);
}

// MPI's start waits for all ranks, without an end. Ends this process when that takes longer than start_timeout(), and so
// by the launcher all others.
class start_watch {
 public:
  start_watch() : seconds(start_timeout()), thread([this] { watch(); }) {}
  ~start_watch() {
    {
      std::lock_guard lock(mutex);
      started = true;
    }
    changed.notify_one();
    thread.join();
  }
  start_watch(start_watch const&) = delete;
  start_watch& operator=(start_watch const&) = delete;

 private:
  void watch() {
    std::unique_lock lock(mutex);
    if (changed.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return started; })) return;
    std::fprintf(stderr,
                 "MPI did not start in %.0f s: ranks that do not say this have not come. Fix: see why they did not "
                 "start, or set TENON_START_TIMEOUT to more seconds.\n",
                 seconds);
    std::_Exit(1);
  }
  double seconds;
  bool started = false;
  std::mutex mutex;
  std::condition_variable changed;
  std::thread thread;  // after what it uses
};

// What the handles of one world share: MPI itself, when it is ours to end, and what was counted.
struct mpi_world {
  mpi_world() = default;
  mpi_world(int argc, char** argv) {
    int already = 0;
    check_mpi(MPI_Initialized(&already), "MPI_Initialized");
    int level = MPI_THREAD_MULTIPLE;
    if (!already) {
      start_watch const watch;
      check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
      finalises = true;
    }
  }
  // After an exception other ranks may never come to the end, and MPI_Finalize would wait for them; without it the
  // launcher ends them.
  ~mpi_world() {
    if (watching) watching->ended(rank);
    watching.reset();  // which may say that all is abandoned
    if (finalises && !abandoned && std::uncaught_exceptions() == exceptions) MPI_Finalize();
  }
  mpi_world(mpi_world const&) = delete;
  mpi_world& operator=(mpi_world const&) = delete;

  counters counted;
  std::atomic<bool> abandoned{false};
  bool finalises = false;
  int exceptions = std::uncaught_exceptions();
  int rank = 0;
  std::unique_ptr<watch> watching;  // null: nothing is watched
};

// Owns an MPI_Comm, which is a pointer or an integer, and a share of the world.
struct mpi_group {
  mpi_group(std::shared_ptr<mpi_world> w, MPI_Comm c) : world(std::move(w)), comm(c) {}
  mpi_group(mpi_group&&) noexcept = default;
  mpi_group& operator=(mpi_group&& other) noexcept {
    std::swap(world, other.world);
    std::swap(comm, other.comm);
    return *this;
  }
  ~mpi_group() {
    int finalised = 0;
    MPI_Finalized(&finalised);
    // What was abandoned may have begun what can only be ended by all ranks.
    if (world && !world->abandoned && !finalised) MPI_Comm_free(&comm);
  }
  std::shared_ptr<mpi_world> world;  // null when moved from
  MPI_Comm comm;
};

// Memory, zero at first, that the ranks of `comm` on this host share. A collective.
inline std::shared_ptr<void> host_memory(MPI_Comm comm, std::size_t bytes) {
  MPI_Comm host = MPI_COMM_NULL;
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(host, &rank), "MPI_Comm_rank");
  char name[] = "/dev/shm/tenon_XXXXXX";
  int file = rank == 0 ? mkstemp(name) : -1;
  bool const made = file >= 0 && ftruncate(file, off_t(bytes)) == 0;
  check_mpi(MPI_Bcast(name, sizeof name, MPI_CHAR, 0, host), "MPI_Bcast");
  if (rank != 0) file = open(name, O_RDWR | O_CLOEXEC);
  void* const p = rank == 0 && !made ? MAP_FAILED : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  int const here = p != MAP_FAILED;
  int all = 0;
  check_mpi(MPI_Allreduce(&here, &all, 1, MPI_INT, MPI_MIN, host), "MPI_Allreduce");
  if (rank == 0) unlink(name);
  MPI_Comm_free(&host);
  std::shared_ptr<void> memory(here ? p : nullptr, [bytes](void* q) {
    if (q) munmap(q, bytes);
  });
  if (!all)
    throw error(errc::comm_failed,
                "no " + std::to_string(bytes) +
                    " bytes for the hang watch in /dev/shm. Fix: make room there, or unset TENON_WATCH.");
  return memory;
}

}  // namespace detail

/// Ranks are MPI processes: one rank's handle of one group.
/// @error error(comm_failed) with MPI's words
/// @test tests/comm/mpi_program.cpp
class mpi {
 public:
  /// MPI_COMM_WORLD. Begins MPI unless the program has, and ends it with the last handle if it began it.
  mpi(int argc, char** argv, watch_options const& watching = watch_options::from_environment())
      : mpi(std::make_shared<detail::mpi_world>(argc, argv), MPI_COMM_WORLD, watching) {}
  /// The ranks of `comm`, which is duplicated; all of them must do this. MPI stays the caller's to end.
  explicit mpi(MPI_Comm comm, watch_options const& watching = watch_options::from_environment())
      : mpi(std::make_shared<detail::mpi_world>(), comm, watching) {}

  int rank() const { return me; }
  int size() const { return ranks; }
  /// A collective.
  int ranks_here() const {
    auto const usable = std::thread::hardware_concurrency();
    if (long const present = sysconf(_SC_NPROCESSORS_ONLN); present > long(usable)) return 1;  // bound by the launcher
    MPI_Comm host = MPI_COMM_NULL;
    detail::check_mpi(MPI_Comm_split_type(group.comm, MPI_COMM_TYPE_SHARED, me, MPI_INFO_NULL, &host),
                      "MPI_Comm_split_type");
    int n = 1;
    MPI_Comm_size(host, &n);
    MPI_Comm_free(&host);
    return n;
  }
  /// Whether groups may be used on different threads at the same time, as `stream` does.
  static bool concurrent() { return thread_level() == MPI_THREAD_MULTIPLE; }

  mpi split(int color, int key) {
    auto const running = count(operation::split, 0, {});
    MPI_Comm part = MPI_COMM_NULL;
    detail::check_mpi(MPI_Comm_split(group.comm, color, key, &part), "MPI_Comm_split");
    return mpi(detail::mpi_group(group.world, part));
  }
  void barrier() {
    auto const running = count(operation::barrier, 0, {});
    detail::check_mpi(MPI_Ibarrier(group.comm, &requests[0].emplace_back()), "MPI_Ibarrier");
    wait(requests[0]);
  }
  void broadcast(std::span<std::byte> bytes, int root) {
    auto const running = count(operation::broadcast, detail::sent_by_broadcast(bytes.size(), me == root, ranks),
                               {.bytes = bytes.size(), .root = root});
    for_chunks(bytes.data(), bytes.size(), [&](std::byte* at, int n) {
      detail::check_mpi(MPI_Ibcast(at, n, MPI_BYTE, root, group.comm, &requests[0].emplace_back()), "MPI_Ibcast");
    });
    wait(requests[0]);
  }
  void all_gather(std::span<std::byte> whole, std::span<std::size_t const> cuts) {
    auto const running =
        count(operation::all_gather, detail::sent_by_all_gather(cuts, me), {.bytes = whole.size(), .cuts = cuts});
    auto const part = [&](int p) {
      return whole.subspan(cuts[std::size_t(p)], cuts[std::size_t(p) + 1] - cuts[std::size_t(p)]);
    };
    for_others([&](int p) { receive(part(p).data(), part(p).size(), p); });
    for_others([&](int p) { send(part(me).data(), part(me).size(), p); });
    wait(requests[0]);
  }
  void all_to_all(std::span<std::span<std::byte const> const> sends, std::span<std::span<std::byte> const> receives) {
    auto const running =
        count(operation::all_to_all, detail::sent_by_all_to_all(sends, me), {.sends = sends, .receives = receives});
    for_others([&](int p) { receive(receives[std::size_t(p)].data(), receives[std::size_t(p)].size(), p); });
    for_others([&](int p) { send(sends[std::size_t(p)].data(), sends[std::size_t(p)].size(), p); });
    if (auto const from = sends[std::size_t(me)]; from.data() != receives[std::size_t(me)].data())
      std::copy(from.begin(), from.end(), receives[std::size_t(me)].begin());
    wait(requests[0]);
  }
  void exchange(std::span<transfer const> transfers) {
    auto const running = count(operation::exchange, detail::sent_by_exchange(transfers), {.transfers = transfers});
    for (auto const& t : transfers)
      if (!t.sends) receive(t.data, t.bytes, t.peer, 0, exchange_tag);
    for (auto const& t : transfers)
      if (t.sends) send(t.data, t.bytes, t.peer, 0, exchange_tag);
    wait(requests[0]);
  }
  void sum(std::span<std::int64_t> integers) {
    auto const running =
        count(operation::sum, detail::sent_by_sum(integers.size_bytes(), ranks), {.bytes = integers.size_bytes()});
    for_chunks(integers.data(), integers.size(), [&](std::int64_t* at, int n) {
      detail::check_mpi(
          MPI_Iallreduce(MPI_IN_PLACE, at, n, MPI_INT64_T, MPI_SUM, group.comm, &requests[0].emplace_back()),
          "MPI_Iallreduce");
    });
    wait(requests[0]);
  }
  template <class Consume>
  void visit_shards(std::span<float const* const> mine, std::span<int const> vectors_of,
                    std::span<std::size_t const> cuts, Consume&& consume) {
    auto const running =
        count(operation::reduce_scatter, detail::sent_by_visit(mine.size(), cuts, me),
              {.bytes = (cuts.back() - cuts.front()) * sizeof(float), .cuts = cuts, .counts = vectors_of});
    std::size_t all = 0, longest = 0;
    for (std::size_t p = 0; p < vectors_of.size(); ++p) {
      all += std::size_t(vectors_of[p]);
      longest = std::max(longest, cuts[p + 1] - cuts[p]);
    }
    // While one piece of everybody's vectors is added, the next comes in; the own vectors are where they are.
    std::size_t const piece = std::clamp<std::size_t>(piece_floats * std::size_t(ranks) / std::max<std::size_t>(all, 1),
                                                      std::size_t(lanes), std::max<std::size_t>(longest, lanes));
    std::size_t const room = (all - mine.size()) * piece;
    if (pieces.size() < 2 * room) pieces.resize(2 * room);
    auto const stretch = [&](int p, std::size_t round) {
      std::size_t const end = cuts[std::size_t(p) + 1], begin = std::min(end, cuts[std::size_t(p)] + round * piece);
      return std::pair(begin, std::min(end, begin + piece));
    };
    vectors.resize(2 * all);
    auto const post = [&](std::size_t round) {
      auto const [begin, end] = stretch(me, round);
      float* to = pieces.data() + round % 2 * room;
      float const** shown = vectors.data() + round % 2 * all;
      for (int p = 0; p < ranks; ++p)
        for (int i = 0; i < vectors_of[std::size_t(p)]; ++i) {
          *shown++ = p == me ? mine[std::size_t(i)] + begin : to;
          if (p == me || begin == end) continue;
          receive(to, (end - begin) * sizeof(float), p, round);
          to += piece;
        }
      for_others([&](int p) {
        auto const [its_begin, its_end] = stretch(p, round);
        for (float const* v : mine)
          if (its_begin < its_end) send(v + its_begin, (its_end - its_begin) * sizeof(float), p, round);
      });
    };
    std::size_t const rounds = (longest + piece - 1) / piece;
    if (rounds) post(0);
    for (std::size_t round = 0; round < rounds; ++round) {
      if (round + 1 < rounds) post(round + 1);
      wait(requests[round % 2]);
      auto const [begin, end] = stretch(me, round);
      if (begin < end) consume(begin, end, std::span<float const* const>(vectors.data() + round % 2 * all, all));
    }
  }
  /// The ranks that do not come here within `seconds`; all ranks call it.
  std::vector<int> missing_after(double seconds) {
    std::vector<MPI_Request> words(2 * std::size_t(ranks), MPI_REQUEST_NULL);
    for_others([&](int p) {
      detail::check_mpi(MPI_Irecv(nullptr, 0, MPI_BYTE, p, tag, group.comm, &words[std::size_t(p)]), "MPI_Irecv");
      detail::check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, p, tag, group.comm, &words[std::size_t(p + ranks)]),
                        "MPI_Isend");
    });
    auto const deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (int done = 0; !done && std::chrono::steady_clock::now() < deadline;) {
      detail::check_mpi(MPI_Testall(int(words.size()), words.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
      if (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::vector<int> missing;
    for (int p = 0; p < ranks; ++p) {
      int done = 0;
      detail::check_mpi(MPI_Test(&words[std::size_t(p)], &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (!done) missing.push_back(p);
    }
    return missing;
  }
  counters& traffic() { return group.world->counted; }
  profile::recorder* profiler = nullptr;
  /// This rank is failing: whatever another thread of it waits for ends.
  void abandon() { group.world->abandoned = true; }
  /// Says what is wrong with this rank by the hang watch, which ends all ranks with these words; false when there is none.
  bool report(std::string const& text) {
    if (group.world->watching) group.world->watching->report(text);
    return group.world->watching != nullptr;
  }
  /// Ends all processes.
  [[noreturn]] void abort(int code) {
    MPI_Abort(MPI_COMM_WORLD, code);
    std::abort();
  }

 private:
  static constexpr int tag = 0x7e0, exchange_tag = 0x7e1;            // what differs in order must not meet
  static constexpr std::size_t chunk = std::size_t(1) << 30;         // counts are int
  static constexpr std::size_t piece_floats = std::size_t(1) << 18;  // 1 MiB: stays in L2 until it is added

  mpi(std::shared_ptr<detail::mpi_world> w, MPI_Comm original, watch_options const& watching)
      : mpi(detail::mpi_group(std::move(w), duplicate(original))) {
    if (!(watching.late_after > 0)) return;
    auto& world = *group.world;
    world.rank = me;
    auto board = detail::host_memory(group.comm, detail::watched_world::bytes(ranks));
    world.watching = std::make_unique<detail::watch>(watching, std::move(board), ranks, std::vector<int>{me}, true,
                                                     [&world](std::string const&) { world.abandoned = true; });
    world.watching->own(me);
    watch_group();
    world.watching->begin();
  }
  explicit mpi(detail::mpi_group g) : group(std::move(g)) {
    detail::check_mpi(MPI_Comm_set_errhandler(group.comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    detail::check_mpi(MPI_Comm_rank(group.comm, &me), "MPI_Comm_rank");
    detail::check_mpi(MPI_Comm_size(group.comm, &ranks), "MPI_Comm_size");
    if (group.world->watching) watch_group();
  }
  void watch_group() {
    std::vector<int> world_ranks(static_cast<std::size_t>(ranks));
    detail::check_mpi(MPI_Allgather(&group.world->rank, 1, MPI_INT, world_ranks.data(), 1, MPI_INT, group.comm),
                      "MPI_Allgather");
    auto board = detail::host_memory(group.comm, detail::watched_group::bytes(std::size_t(ranks)));
    watched =
        std::make_unique<detail::watched_group>(*group.world->watching, std::move(board), std::move(world_ranks), me);
  }
  static int thread_level() {
    int level = 0;
    detail::check_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
    return level;
  }
  static MPI_Comm duplicate(MPI_Comm original) {
    if (thread_level() < MPI_THREAD_SERIALIZED)
      throw error(errc::comm_failed,
                  "MPI was begun for one thread only. Fix: MPI_Init_thread with MPI_THREAD_MULTIPLE, or leave it to "
                  "tenon::comm::mpi.");
    MPI_Comm copy = MPI_COMM_NULL;
    detail::check_mpi(MPI_Comm_dup(original, &copy), "MPI_Comm_dup");
    return copy;
  }

  detail::running count(operation o, std::size_t sent, detail::watched_arguments arguments) {
    arguments.what = o;
    return {watched.get(), arguments, traffic(), profiler, sent};
  }
  template <class F>
  void for_others(F&& f) const {
    for (int i = 1; i < ranks; ++i) f((me + i) % ranks);
  }
  template <class T, class F>
  static void for_chunks(T* data, std::size_t n, F&& f) {
    for (std::size_t at = 0; at < n; at += chunk) f(data + at, int(std::min(chunk, n - at)));
  }
  // Begun, and done after `wait` for the requests of the same lot.
  void send(void const* data, std::size_t bytes, int to, std::size_t lot = 0, int its_tag = tag) {
    for_chunks(static_cast<std::byte const*>(data), bytes, [&](std::byte const* at, int n) {
      detail::check_mpi(MPI_Isend(at, n, MPI_BYTE, to, its_tag, group.comm, &requests[lot % 2].emplace_back()),
                        "MPI_Isend");
    });
  }
  void receive(void* data, std::size_t bytes, int from, std::size_t lot = 0, int its_tag = tag) {
    for_chunks(static_cast<std::byte*>(data), bytes, [&](std::byte* at, int n) {
      detail::check_mpi(MPI_Irecv(at, n, MPI_BYTE, from, its_tag, group.comm, &requests[lot % 2].emplace_back()),
                        "MPI_Irecv");
    });
  }
  void wait(std::vector<MPI_Request>& lot) {
    int code = MPI_SUCCESS;
    // Spins for longer than ranks in step are apart, then sleeps: what waits for a slow rank, or for a disk, would take
    // the core of a step.
    constexpr int spins_before_sleep = 200;
    int turn = 0;
    for (int done = 0; !done && code == MPI_SUCCESS && !group.world->abandoned.load(std::memory_order_relaxed);) {
      code = MPI_Testall(int(lot.size()), lot.data(), &done, MPI_STATUSES_IGNORE);
      if (++turn > spins_before_sleep && !done) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    lot.clear();
    bool const failing = group.world->abandoned;
    if (code == MPI_SUCCESS && !failing) return;
    if (watched) watched->throw_report(failing ? 0 : 1);  // which knows more than MPI's words
    detail::check_mpi(code, "MPI_Testall");
    throw error(errc::comm_failed, "this rank is failing");
  }

  detail::mpi_group group;
  int me = 0, ranks = 1;
  std::vector<MPI_Request> requests[2];
  std::vector<float> pieces;
  std::vector<float const*> vectors;
  std::unique_ptr<detail::watched_group> watched;  // null: not watched
};
static_assert(Communicator<mpi>);

/// The body of a main function: f(world), whose exceptions are printed. One that all ranks throw alike is printed once;
/// when only some ranks throw, all processes are ended. Returns main's result.
///
///     int main(int argc, char** argv) {
///       return tenon::comm::run_mpi(argc, argv, [&](tenon::comm::mpi& world) { ... });
///     }
template <class F>
int run_mpi(int argc, char** argv, F&& f) {
  std::unique_ptr<mpi> world;
  std::string text;
  try {
    world = std::make_unique<mpi>(argc, argv);
    if constexpr (std::is_void_v<decltype(f(*world))>) return f(*world), 0;
    else return f(*world);
  } catch (std::exception const& e) {
    text = e.what();
  } catch (...) {
    text = "an exception of unknown type";
  }
  if (!world) {
    std::fprintf(stderr, "%s\n", text.c_str());
    return 1;
  }
  if (world->report("rank " + std::to_string(world->rank()) + " of " + std::to_string(world->size()) + ": " + text))
    return 1;
  // Whether all are here, and with the same words: MPI_COMM_WORLD itself, where nothing of ours can be under way.
  std::int64_t const hash = std::int64_t(std::hash<std::string>()(text) >> 1);
  std::int64_t extremes[2] = {hash, -hash};
  MPI_Request request;
  int all = 0;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Iallreduce(MPI_IN_PLACE, extremes, 2, MPI_INT64_T, MPI_MIN, MPI_COMM_WORLD, &request);
  auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (MPI_Test(&request, &all, MPI_STATUS_IGNORE) == MPI_SUCCESS && !all &&
         std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  bool const alike = all && extremes[0] == -extremes[1];
  if (!alike) std::fprintf(stderr, "rank %d of %d: %s\n", world->rank(), world->size(), text.c_str());
  else if (world->rank() == 0) std::fprintf(stderr, "%s\n", text.c_str());
  std::fflush(stderr);
  if (!all) world->abort(1);
  return 1;
}

}  // namespace tenon::comm
