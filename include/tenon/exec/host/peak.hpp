// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What this machine can do at most, measured in the same run as what is compared with it.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <thread>
#include <utility>
#include <vector>

#include <tenon/core/arena.hpp>
#include <tenon/exec/host/simd.hpp>
#include <tenon/exec/host/thread_pool.hpp>

namespace tenon::exec {
namespace detail {

/// Chains of f32x16 that fill the pipelines: latency 4 on two pipes of one f32x16 each needs eight, and as many must
/// fit the registers (32 of one f32x16; 16 of half of one).
inline constexpr std::size_t fma_chains = TENON_SIMD_AVX512() ? 12 : TENON_SIMD_AVX2() ? 6 : 4;

/// `rounds` fused multiply-adds on each chain; the sum of all, so that none can be left out. No two lanes begin alike
/// (`start`: 16 unknown values per chain): g++ computes equal halves of an f32x16 once.
TENON_NOINLINE inline float fma_loop(long rounds, float factor, float addend, float const* start) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    simd::f32x16 const a = simd::broadcast(factor), b = simd::broadcast(addend);
    simd::f32x16 chain[] = {simd::load(start + lanes * I)...};
    for (long r = 0; r < rounds; ++r) ((chain[I] = simd::fma(chain[I], a, b)), ...);
    simd::f32x16 sum = simd::zeros();
    ((sum = sum + chain[I]), ...);
    return simd::reduce_add(sum);
  }
  (std::make_index_sequence<fma_chains>());
}
/// Reads [p, p + bytes), a multiple of 1 KiB, and returns something that depends on all of it.
TENON_NOINLINE inline float read_loop(float const* p, std::size_t bytes) {
  simd::f32x16 sum[4] = {simd::zeros(), simd::zeros(), simd::zeros(), simd::zeros()};
  for (float const* const end = p + bytes / sizeof(float); p != end; p += 64)
    for (int i = 0; i < 4; ++i) sum[i] = sum[i] + simd::load(p + 16 * i);
  return simd::reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}
template <class F>
double seconds_of(F&& f) {
  auto const begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
/// A value that the compiler does not know, and a place for one that it may not drop.
inline float hidden(float value) {
  float volatile v = value;
  return v;
}

}  // namespace detail

/// fp32 FLOP/s of fused multiply-adds on all threads of the pool at a time: each thread's median of forty slices of
/// about 1 ms, added up: what the processor sustains now, its best moments and its interruptions left out. More threads
/// than processors add nothing.
/// @test tests/exec/peak_test.cpp
inline double measure_fma_peak(thread_pool& pool) {
  float const factor = detail::hidden(0.999f), addend = detail::hidden(0.001f);
  float start[lanes * detail::fma_chains];
  for (std::size_t i = 0; i < std::size(start); ++i) start[i] = detail::hidden(float(i));
  auto const loop = [&](long rounds) {
    return detail::seconds_of([&] { detail::hidden(detail::fma_loop(rounds, factor, addend, start)); });
  };
  long rounds = 1 << 10;
  while (loop(rounds) < 7e-4) rounds *= 2;
  double const flops = 2.0 * lanes * double(detail::fma_chains) * double(rounds);
  std::vector<double> rate(std::size_t(pool.size()), 0.0);
  pool.run([&](int t) {
    double slices[40];
    for (double& slice : slices) slice = flops / loop(rounds);
    std::nth_element(slices, slices + 20, slices + 40);
    rate[std::size_t(t)] = slices[20];
  });
  double sum = 0;
  for (double r : rate) sum += r;
  auto const processors = double(std::max(std::thread::hardware_concurrency(), 1u));
  return sum * std::min(1.0, processors / pool.size());
}

/// Bytes per second that all threads of the pool read from memory: the best of five passes over `bytes`, which should
/// be several times the last cache. Holds that much memory meanwhile.
inline double measure_read_bandwidth(thread_pool& pool, std::size_t bytes = std::size_t(256) << 20) {
  std::size_t const part = std::max<std::size_t>(bytes / std::size_t(pool.size()) / 4096, 1) * 4096;
  memory_block const memory(part * std::size_t(pool.size()));
  auto const of = [&](int t) { return memory.data() + std::size_t(t) * part; };
  pool.run([&](int t) { std::memset(of(t), 1, part); });  // untouched pages would all be one page of zeros
  double best = 1e30;
  for (int pass = 0; pass < 5; ++pass)
    best = std::min(
        best, detail::seconds_of([&] {
          pool.run([&](int t) { detail::hidden(detail::read_loop(reinterpret_cast<float const*>(of(t)), part)); });
        }));
  return double(part) * pool.size() / best;
}

}  // namespace tenon::exec
