// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file Products with stored weights: share of the memory bandwidth for one row, operations per second for many.
///
///     linear_bench [--threads N]... [--rounds R] [--formats F32,Q4_0,...] [--rows 1,2,...] [--megabytes M]
///
/// A call meets weights that were last used `megabytes` of other weights ago. Each round also reads all of them once, as fast
/// as memory goes; figures are medians over rounds, shares medians of each round's.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include <tenon/exec/host/peak.hpp>
#include <tenon/ops/host/linear.hpp>

namespace {

using tenon::index_t;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

struct settings {
  std::vector<int> threads;
  std::vector<std::string> formats;
  std::vector<index_t> rows;
  std::size_t bytes = std::size_t(256) << 20;
  int rounds = 5;
};

/// Bytes per second of one pass over memory.
double read_once(tenon::exec::thread_pool& pool, tenon::memory_block const& memory) {
  std::size_t const part = memory.size() / std::size_t(pool.size()) / 1024 * 1024;
  double const begin = seconds();
  pool.run([&](int t) {
    auto const* const from = reinterpret_cast<float const*>(memory.data() + std::size_t(t) * part);
    tenon::exec::detail::hidden(tenon::exec::detail::read_loop(from, part));
  });
  return double(part) * pool.size() / (seconds() - begin);
}

/// Weights of one shape, as many as make up `bytes`. Their bytes are arbitrary, but make no subnormal numbers.
void run(settings const& s, int threads, tenon::weight_layout const& layout, index_t n, index_t k) {
  auto const format = tenon::weight_format(&layout - tenon::weight_layouts.data());
  tenon::exec::host_context ctx(threads);
  tenon::weight_view w{format, nullptr, n, k};
  index_t const matrix_bytes = n * w.row_bytes(), copies = std::max<index_t>(1, index_t(s.bytes) / matrix_bytes);
  tenon::memory_block const bytes(std::size_t(copies * matrix_bytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes.data()[i] = std::byte(0x20 | (i * 0x9e3779b9u >> 20 & 0x1f));
  for (index_t t : s.rows) {
    std::vector<float> x(std::size_t(t * k)), y(std::size_t(t * n));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7919 % 1021) * 0x1p-9f - 1.0f;
    std::vector<double> time, share;
    index_t const calls = std::max<index_t>(1, t <= 4 ? copies : std::min<index_t>(copies, 1 + (1 << 10) / t));
    for (int round = 0; round < s.rounds; ++round) {
      double const read = read_once(ctx.pool(), bytes);
      double const begin = seconds();
      for (index_t i = 0; i < calls; ++i) {
        w.data = bytes.data() + (i + round * calls) % copies * matrix_bytes;
        tenon::ops::linear(ctx, tenon::ops::linear_args{.x = as_const(tenon::matrix(x.data(), t, k)),
                                                        .weight = w,
                                                        .y = tenon::matrix(y.data(), t, n)});
      }
      time.push_back((seconds() - begin) / double(calls));
      share.push_back(double(matrix_bytes) / time.back() / read);
    }
    double const took = median(time);
    std::printf("| %d | %s | %td x %td | %td | %.1f | %.1f | %.0f %% | %.0f |\n", threads, layout.name, n, k, t,
                took * 1e6, double(matrix_bytes) / took * 1e-9, 100 * median(share),
                2e-9 * double(t) * double(n) * double(k) / took);
    std::fflush(stdout);
  }
}

template <class T>
std::vector<T> parts(std::string const& list) {
  std::vector<T> v;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) {
    T value;
    std::istringstream(part) >> value;
    v.push_back(value);
  }
  return v;
}

}  // namespace

int main(int count, char** arguments) {
  settings s;
  s.formats = {"F16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q6_K"};
  s.rows = {1, 2, 4, 8, 16, 64, 512};
  std::string shapes = "576x1536,1536x576,2048x5632,5632x2048";
  for (int i = 1; i + 1 < count; i += 2) {
    std::string const option = arguments[i], value = arguments[i + 1];
    if (option == "--threads") s.threads.push_back(std::atoi(value.c_str()));
    else if (option == "--rounds") s.rounds = std::atoi(value.c_str());
    else if (option == "--formats") s.formats = parts<std::string>(value);
    else if (option == "--rows") s.rows = parts<index_t>(value);
    else if (option == "--shapes") shapes = value;
    else if (option == "--megabytes") s.bytes = std::size_t(std::atoi(value.c_str())) << 20;
  }
  if (s.threads.empty()) s.threads = {1, 2};
  std::printf("%s\n\n| threads | format | outputs x inputs | rows | us | GB/s | of bandwidth | GOP/s |\n",
              tenon::simd::instruction_set);
  std::printf("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
  for (int threads : s.threads)
    for (auto const& shape : parts<std::string>(shapes)) {
      index_t n = 0, k = 0;
      std::sscanf(shape.c_str(), "%tdx%td", &n, &k);
      for (auto const& layout : tenon::weight_layouts)
        if (std::find(s.formats.begin(), s.formats.end(), layout.name) != s.formats.end() && k % layout.values == 0)
          run(s, threads, layout, n, k);
    }
}
