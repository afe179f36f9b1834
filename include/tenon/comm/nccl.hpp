// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Ranks as devices that talk through NCCL. Needs nccl.h and the CUDA runtime: link tenon::nccl, and include this
/// header by name.
#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <tenon/comm/communicator.hpp>
#include <tenon/core/error.hpp>
#include <tenon/core/reduction_order.hpp>
#include <tenon/policy/communicator.hpp>

namespace tenon::comm {

namespace detail {
inline void check_nccl(ncclResult_t code, char const* function) {
  if (code != ncclSuccess)
    throw error(errc::comm_failed,
                std::string(function) + ": " + ncclGetErrorString(code) + " (" + ncclGetLastError(nullptr) + ")");
}
inline void check_cuda(cudaError_t code, char const* function) {
  if (code != cudaSuccess) throw error(errc::device_failed, std::string(function) + ": " + cudaGetErrorString(code));
}
}  // namespace detail

/// Ranks are devices: one rank's handle of one group. All memory that is named is the device's, and all operations are
/// put on `stream()` and return at once: what `visit_shards` calls puts its kernels there too.
/// @error error(comm_failed) with NCCL's words, error(device_failed) with the runtime's
/// @test tests/comm/nccl_program.cpp
class nccl {
 public:
  static constexpr bool device_memory = true;

  /// The ranks of `host`, each with the device that is current on it; all of them must do this.
  template <class C>
    requires(!std::same_as<std::remove_cv_t<C>, nccl> && Communicator<C>)
  explicit nccl(C& host) : nccl() {
    ncclUniqueId id{};
    if (host.rank() == 0) detail::check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    host.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    detail::check_cuda(cudaStreamCreateWithFlags(&queue, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    owns_queue = true;
    detail::check_nccl(ncclCommInitRank(&comm, host.size(), id, host.rank()), "ncclCommInitRank");
    counted = &host.traffic();
    here = host.ranks_here();
    find_rank();
  }
  nccl(nccl&& other) noexcept { swap(other); }
  nccl& operator=(nccl&& other) noexcept {
    swap(other);
    return *this;
  }
  ~nccl() {
    if (buffer) cudaFree(buffer);
    if (comm) ncclCommDestroy(comm);
    if (owns_queue) cudaStreamDestroy(queue);
  }

  int rank() const { return me; }
  int size() const { return ranks; }
  int ranks_here() const { return here; }
  cudaStream_t stream() const { return queue; }
  /// Waits until all that was put on the stream is done.
  void synchronise() { detail::check_cuda(cudaStreamSynchronize(queue), "cudaStreamSynchronize"); }

  /// A group on the same stream, which lives no longer than this one.
  nccl split(int color, int key) {
    nccl part;
    detail::check_nccl(ncclCommSplit(comm, color, key, &part.comm, nullptr), "ncclCommSplit");
    part.queue = queue;
    part.counted = counted;
    part.here = here;
    part.find_rank();
    return part;
  }
  /// Also waits for this rank's own stream.
  void barrier() {
    auto const running = count(operation::barrier, 0);
    float* const one = room(1);
    detail::check_nccl(ncclAllReduce(one, one, 1, ncclFloat, ncclSum, comm, queue), "ncclAllReduce");
    synchronise();
  }
  void broadcast(std::span<std::byte> bytes, int root) {
    auto const running = count(operation::broadcast, detail::sent_by_broadcast(bytes.size(), me == root, ranks));
    detail::check_nccl(ncclBroadcast(bytes.data(), bytes.data(), bytes.size(), ncclInt8, root, comm, queue),
                       "ncclBroadcast");
  }
  void all_gather(std::span<std::byte> whole, std::span<std::size_t const> cuts) {
    auto const running = count(operation::all_gather, detail::sent_by_all_gather(cuts, me));
    auto const part = [&](int p) {
      return whole.subspan(cuts[std::size_t(p)], cuts[std::size_t(p) + 1] - cuts[std::size_t(p)]);
    };
    together([&] {
      for_others([&](int p) {
        receive(part(p).data(), part(p).size(), p);
        send(part(me).data(), part(me).size(), p);
      });
    });
  }
  void all_to_all(std::span<std::span<std::byte const> const> sends, std::span<std::span<std::byte> const> receives) {
    auto const running = count(operation::all_to_all, detail::sent_by_all_to_all(sends, me));
    together([&] {
      for_others([&](int p) {
        receive(receives[std::size_t(p)].data(), receives[std::size_t(p)].size(), p);
        send(sends[std::size_t(p)].data(), sends[std::size_t(p)].size(), p);
      });
    });
    if (auto const own = sends[std::size_t(me)]; own.data() != receives[std::size_t(me)].data())
      detail::check_cuda(
          cudaMemcpyAsync(receives[std::size_t(me)].data(), own.data(), own.size(), cudaMemcpyDeviceToDevice, queue),
          "cudaMemcpyAsync");
  }
  void exchange(std::span<transfer const> transfers) {
    auto const running = count(operation::exchange, detail::sent_by_exchange(transfers));
    together([&] {
      for (auto const& t : transfers) t.sends ? send(t.data, t.bytes, t.peer) : receive(t.data, t.bytes, t.peer);
    });
  }
  void sum(std::span<std::int64_t> integers) {
    auto const running = count(operation::sum, detail::sent_by_sum(integers.size_bytes(), ranks));
    detail::check_nccl(
        ncclAllReduce(integers.data(), integers.data(), integers.size(), ncclInt64, ncclSum, comm, queue),
        "ncclAllReduce");
  }
  template <class Consume>
  void visit_shards(std::span<float const* const> mine, std::span<int const> vectors_of,
                    std::span<std::size_t const> cuts, Consume&& consume) {
    auto const running = count(operation::reduce_scatter, detail::sent_by_visit(mine.size(), cuts, me));
    std::size_t all = 0, longest = 0;
    for (std::size_t p = 0; p < vectors_of.size(); ++p) {
      all += std::size_t(vectors_of[p]);
      longest = std::max(longest, cuts[p + 1] - cuts[p]);
    }
    std::size_t const piece = std::clamp(piece_floats * std::size_t(ranks) / std::max<std::size_t>(all, 1),
                                         std::size_t(lanes), std::max(longest, std::size_t(lanes)));
    auto const stretch = [&](int p, std::size_t offset) {
      std::size_t const end = cuts[std::size_t(p) + 1], begin = std::min(end, cuts[std::size_t(p)] + offset);
      return std::pair(begin, std::min(end, begin + piece));
    };
    room((all - mine.size()) * piece);
    std::vector<float const*> vectors(all);
    for (std::size_t offset = 0; offset < longest; offset += piece) {  // in stream order: one buffer is enough
      std::size_t const begin = stretch(me, offset).first, end = stretch(me, offset).second;
      together([&] {
        float* to = buffer;
        std::size_t at = 0;
        for (int p = 0; p < ranks; ++p)
          for (int i = 0; i < vectors_of[std::size_t(p)]; ++i) {
            vectors[at++] = p == me ? mine[std::size_t(i)] + begin : to;
            if (p == me) continue;
            receive(to, (end - begin) * sizeof(float), p);
            to += piece;
          }
        for_others([&](int p) {
          auto const [its_begin, its_end] = stretch(p, offset);
          for (float const* v : mine) send(v + its_begin, (its_end - its_begin) * sizeof(float), p);
        });
      });
      if (begin < end) consume(begin, end, std::span<float const* const>(vectors));
    }
  }
  void abandon() { ncclCommAbort(std::exchange(comm, nullptr)); }
  counters& traffic() { return *counted; }
  profile::recorder* profiler = nullptr;

 private:
  static constexpr std::size_t piece_floats = std::size_t(1) << 20;  // 4 MiB a peer: NCCL is at full speed

  nccl() = default;
  void swap(nccl& other) {
    std::swap(comm, other.comm);
    std::swap(queue, other.queue);
    std::swap(owns_queue, other.owns_queue);
    std::swap(counted, other.counted);
    std::swap(me, other.me);
    std::swap(ranks, other.ranks);
    std::swap(here, other.here);
    std::swap(buffer, other.buffer);
    std::swap(buffer_floats, other.buffer_floats);
  }
  void find_rank() {
    detail::check_nccl(ncclCommUserRank(comm, &me), "ncclCommUserRank");
    detail::check_nccl(ncclCommCount(comm, &ranks), "ncclCommCount");
  }
  profile::range count(operation o, std::size_t bytes) {
    return detail::begin_operation(traffic(), profiler, o, bytes);
  }
  template <class F>
  void for_others(F&& f) const {
    for (int i = 1; i < ranks; ++i) f((me + i) % ranks);
  }
  template <class F>
  void together(F&& f) {
    detail::check_nccl(ncclGroupStart(), "ncclGroupStart");
    f();
    detail::check_nccl(ncclGroupEnd(), "ncclGroupEnd");
  }
  void send(void const* data, std::size_t bytes, int to) {
    if (bytes) detail::check_nccl(ncclSend(data, bytes, ncclInt8, to, comm, queue), "ncclSend");
  }
  void receive(void* data, std::size_t bytes, int from) {
    if (bytes) detail::check_nccl(ncclRecv(data, bytes, ncclInt8, from, comm, queue), "ncclRecv");
  }
  float* room(std::size_t floats) {
    if (floats > buffer_floats) {
      synchronise();
      if (buffer) cudaFree(std::exchange(buffer, nullptr));
      buffer_floats = 0;
      detail::check_cuda(cudaMalloc(reinterpret_cast<void**>(&buffer), floats * sizeof(float)), "cudaMalloc");
      buffer_floats = floats;
    }
    return buffer;
  }

  ncclComm_t comm = nullptr;
  cudaStream_t queue = nullptr;
  bool owns_queue = false;
  counters* counted = nullptr;
  int me = 0, ranks = 1, here = 1;
  float* buffer = nullptr;
  std::size_t buffer_floats = 0;
};
static_assert(Communicator<nccl>);

}  // namespace tenon::comm
