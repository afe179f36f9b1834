// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file What `thread_pool` costs, and what it gains that threads begin with shares of their own. A Markdown table.
///
///     thread_pool_bench
///
/// Rows of 384 floats go from one buffer to another and back, as activations do from operation to operation: handed out
/// from one counter to whichever thread is free, and by `for_each`. The best of five rounds of fifty passes each.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include <tenon/exec/host/thread_pool.hpp>

using tenon::index_t;

namespace {

constexpr index_t cols = 384, rows_of_piece = 44;

double microseconds(std::function<void()> const& pass) {
  using clock = std::chrono::steady_clock;
  constexpr int passes = 50;
  double best = 1e30;
  for (int round = 0; round < 5; ++round) {
    auto const begin = clock::now();
    for (int i = 0; i < passes; ++i) pass();
    best = std::min(best, std::chrono::duration<double, std::micro>(clock::now() - begin).count() / passes);
  }
  return best;
}

void copy_piece(std::vector<float> const& from, std::vector<float>& to, index_t piece) {
  auto const begin = std::size_t(piece * rows_of_piece * cols),
             end = std::min(from.size(), begin + std::size_t(rows_of_piece * cols));
  for (std::size_t i = begin; i < end; ++i) to[i] = from[i] * 0.5f + 1;
}

}  // namespace

int main() {
  std::printf(
      "| threads | rows | empty run, us | one counter, GB/s | for_each, GB/s | ratio |\n"
      "| --- | --- | --- | --- | --- | --- |\n");
  int const processors = int(std::max(1u, std::thread::hardware_concurrency()));
  for (int threads = 1; threads <= processors; threads *= 2) {
    tenon::exec::thread_pool pool(threads);
    double const empty = microseconds([&] { pool.run([](int) {}); });
    for (index_t rows : {2048, 8192}) {
      std::vector<float> a(std::size_t(rows * cols), 1.0f), b(a.size());
      index_t const pieces = (rows + rows_of_piece - 1) / rows_of_piece;
      auto const both_ways = [&](auto&& hand_out) {
        double const gigabytes = 4e-9 * double(a.size() * sizeof(float));
        return gigabytes / (1e-6 * microseconds([&] {
                              hand_out([&](index_t p) { copy_piece(a, b, p); });
                              hand_out([&](index_t p) { copy_piece(b, a, p); });
                            }));
      };
      double const counter = both_ways([&](auto&& piece) {
        std::atomic<index_t> next{0};
        pool.run([&](int) {
          for (index_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) piece(i);
        });
      });
      double const shares = both_ways([&](auto&& piece) { pool.for_each(pieces, piece); });
      std::printf("| %d | %td | %.1f | %.1f | %.1f | %.2f |\n", threads, rows, empty, counter, shares,
                  shares / counter);
    }
  }
}
