// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: tenon::nccl
//
// One rank for each device here, as threads.
#include <cstdio>
#include <cstring>
#include <vector>

#include <tenon/comm.hpp>
#include <tenon/comm/nccl.hpp>

#include "communicator_body.hpp"

using namespace tenon;
using comm::nccl;
using communicator_body::byte_of;
using communicator_body::require;
using communicator_body::value;

namespace {

// Memory of the device that is written and read by the host.
template <class T>
struct managed {
  explicit managed(std::size_t n) : size(n) {
    comm::detail::check_cuda(cudaMallocManaged(reinterpret_cast<void**>(&data), n * sizeof(T)), "cudaMallocManaged");
  }
  ~managed() { cudaFree(data); }
  managed(managed const&) = delete;
  managed& operator=(managed const&) = delete;
  std::span<T> span() { return {data, size}; }
  T* data = nullptr;
  std::size_t size;
};

void check(comm::threads& host) {
  comm::detail::check_cuda(cudaSetDevice(host.rank()), "cudaSetDevice");
  nccl world(host);
  int const me = world.rank(), n = world.size();
  require(me == host.rank() && n == host.size(), "the ranks of the host");
  world.barrier();

  managed<std::byte> bytes(1000 * std::size_t(n));
  auto const cuts = comm::even_cuts(bytes.size, n);
  for (std::size_t i = cuts[std::size_t(me)]; i < cuts[std::size_t(me) + 1]; ++i) bytes.data[i] = byte_of(7, i);
  world.all_gather(bytes.span(), cuts);
  world.synchronise();
  for (std::size_t i = 0; i < bytes.size; ++i) require(bytes.data[i] == byte_of(7, i), "all_gather");

  managed<std::int64_t> integers(3);
  for (auto& i : integers.span()) i = me + 1;
  world.sum(integers.span());
  world.synchronise();
  require(integers.data[2] == n * (n + 1) / 2, "sum");

  managed<float> vector(3000001), sums(vector.size);
  for (std::size_t i = 0; i < vector.size; ++i) vector.data[i] = value(me, i);
  float const* const mine = vector.data;
  std::vector<int> const one(std::size_t(n), 1);
  auto const shards = comm::even_cuts(vector.size, n);
  comm::node_sum const add(n);
  world.visit_shards(std::span(&mine, 1), one, shards, [&](std::size_t begin, std::size_t end, auto vectors) {
    std::vector<std::vector<float>> shown(vectors.size(), std::vector<float>(end - begin));
    std::vector<float const*> pointers;
    world.synchronise();
    for (std::size_t v = 0; v < vectors.size(); ++v) {
      cudaMemcpy(shown[v].data(), vectors[v], (end - begin) * sizeof(float), cudaMemcpyDefault);
      pointers.push_back(shown[v].data());
    }
    add(sums.data + begin, pointers, end - begin);
  });
  std::vector<int> ranks(static_cast<std::size_t>(n));
  std::iota(ranks.begin(), ranks.end(), 0);
  for (std::size_t i = shards[std::size_t(me)]; i < shards[std::size_t(me) + 1]; i += 101)
    require(communicator_body::same_bits(sums.data[i], communicator_body::tree_sum(ranks, i)), "visit_shards");

  nccl alone = world.split(me, 0);
  require(alone.size() == 1, "split");
  alone.broadcast(bytes.span(), 0);
  alone.synchronise();
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return std::puts("skipped: no device"), 0;
  comm::threads::run(devices, check);
  std::printf("%d devices: all holds\n", devices);
}
