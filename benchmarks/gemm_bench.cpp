// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file Matrix multiplication against OpenBLAS, oneDNN and BLIS, interleaved in one process: a Markdown table.
///
///     gemm_bench [--threads N]... [--rounds R] [--only SUBSTRING]
///
/// A peer that is not installed is reported as absent. Figures are medians over rounds; in a round each candidate runs
/// a few times in a row after one call that is not timed, and its best time counts. Ratios are taken per round.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <tenon/exec/host/peak.hpp>
#include <tenon/ops/gemm.hpp>
#include <tenon/ops/host/gemm.hpp>

namespace {

using tenon::index_t;
namespace simd = tenon::simd;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct shape {
  index_t m, n, k;
  bool a_transposed, b_transposed;
  index_t leaf;  ///< in use with the bitwise order
  std::string name() const {
    return std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " " + (a_transposed ? "T" : "N") +
           (b_transposed ? "T" : "N");
  }
};

/// Row-major sgemm with alpha 1 and beta 0.
struct peer {
  std::string name;
  std::function<void(int)> set_threads;
  std::function<void(shape const&, float const*, float const*, float*)> multiply;
};

template <class F>
F* symbol(void* library, char const* name) {
  return reinterpret_cast<F*>(dlsym(library, name));
}
void* open_library(char const* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND); }

using cblas_sgemm_function = void(int, int, int, int, int, int, float, float const*, int, float const*, int, float,
                                  float*, int);

/// OpenBLAS and BLIS both export cblas_sgemm; each is taken from its own library.
bool add_cblas(std::vector<peer>& peers, char const* name, char const* file, std::function<void(void*, int)> set) {
  void* const library = open_library(file);
  auto* const sgemm = library ? symbol<cblas_sgemm_function>(library, "cblas_sgemm") : nullptr;
  if (!sgemm) return false;
  peers.push_back({name, [=](int threads) { set(library, threads); },
                   [=](shape const& s, float const* a, float const* b, float* c) {
                     constexpr int row_major = 101, plain = 111, transposed = 112;
                     int const m = int(s.m), n = int(s.n), k = int(s.k);
                     sgemm(row_major, s.a_transposed ? transposed : plain, s.b_transposed ? transposed : plain, m, n, k,
                           1, a, s.a_transposed ? m : k, b, s.b_transposed ? k : n, 0, c, n);
                   }});
  return true;
}

using dnnl_sgemm_function = int(char, char, index_t, index_t, index_t, float, float const*, index_t, float const*,
                                index_t, float, float*, index_t);

bool add_onednn(std::vector<peer>& peers) {
  void* const library = open_library("libdnnl.so.2");
  auto* const sgemm = library ? symbol<dnnl_sgemm_function>(library, "dnnl_sgemm") : nullptr;
  void* const openmp = dlopen("libgomp.so.1", RTLD_NOW);
  if (!sgemm) return false;
  peers.push_back({"oneDNN",
                   [=](int threads) {
                     if (auto* set = openmp ? symbol<void(int)>(openmp, "omp_set_num_threads") : nullptr) set(threads);
                   },
                   [=](shape const& s, float const* a, float const* b, float* c) {
                     sgemm(s.a_transposed ? 'T' : 'N', s.b_transposed ? 'T' : 'N', s.m, s.n, s.k, 1, a,
                           s.a_transposed ? s.m : s.k, b, s.b_transposed ? s.k : s.n, 0, c, s.n);
                   }});
  return true;
}

std::vector<peer> find_peers() {
  setenv("OMP_WAIT_POLICY", "passive", 0);  // a peer's idle threads must not take the next candidate's cores
  std::vector<peer> peers;
  auto const absent = [](char const* name) { std::printf("%s: absent\n", name); };
  if (!add_cblas(peers, "OpenBLAS", "libopenblas.so.0",
                 [](void* library, int threads) { symbol<void(int)>(library, "openblas_set_num_threads")(threads); }))
    absent("OpenBLAS");
  if (!add_onednn(peers)) absent("oneDNN");
  if (!add_cblas(peers, "BLIS", "libblis.so.4", [](void* library, int threads) {
        symbol<void(index_t)>(library, "bli_thread_set_num_threads")(threads);
      }))
    absent("BLIS");
  return peers;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

/// Best GFLOP/s of a few calls in a row.
double best_rate(shape const& s, std::function<void()> const& multiply) {
  double const operations = 2.0 * double(s.m) * double(s.n) * double(s.k);
  multiply();
  double best = 0;
  double const begin = seconds();
  for (int i = 0; i < 2 || seconds() - begin < 0.02; ++i) {
    double const start = seconds();
    multiply();
    best = std::max(best, operations / (seconds() - start) / 1e9);
  }
  return best;
}

struct buffers {
  std::vector<float> a, b, c;
  explicit buffers(shape const& s) : a(std::size_t(s.m * s.k)), b(std::size_t(s.k * s.n)), c(std::size_t(s.m * s.n)) {
    for (auto* v : {&a, &b})
      for (auto& x : *v) x = float(std::rand()) / float(RAND_MAX) - 0.5f;
  }
};

void multiply_ours(tenon::exec::host_context& ctx, shape const& s, buffers& m, index_t leaf) {
  using namespace tenon;
  auto const a = s.a_transposed ? transposed(matrix(m.a.data(), s.k, s.m)) : matrix(m.a.data(), s.m, s.k);
  auto const b = s.b_transposed ? transposed(matrix(m.b.data(), s.n, s.k)) : matrix(m.b.data(), s.k, s.n);
  ops::gemm(ctx, ops::gemm_args<float, float, float>{.c = matrix(m.c.data(), s.m, s.n), .a = a, .b = b, .leaf = leaf});
}

void run_shape(shape const& s, int threads, int rounds, std::vector<peer> const& peers) {
  buffers m(s);
  tenon::exec::host_context ctx(threads);
  std::size_t const candidates = 2 + peers.size();
  std::vector<std::vector<double>> rate(candidates);
  std::vector<double> peak, to_peer, leaf_to_one;
  for (int round = 0; round < rounds; ++round) {
    peak.push_back(tenon::exec::measure_fma_peak(ctx.pool()) * 1e-9);
    double best_peer = 0;
    for (std::size_t i = 0; i < peers.size(); ++i) {
      peers[i].set_threads(threads);
      rate[i + 2].push_back(best_rate(s, [&] { peers[i].multiply(s, m.a.data(), m.b.data(), m.c.data()); }));
      best_peer = std::max(best_peer, rate[i + 2].back());
      if (threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(30));  // until its threads sleep
    }
    rate[0].push_back(best_rate(s, [&] { multiply_ours(ctx, s, m, 0); }));
    rate[1].push_back(best_rate(s, [&] { multiply_ours(ctx, s, m, s.leaf); }));
    if (best_peer > 0) to_peer.push_back(rate[0].back() / best_peer);
    leaf_to_one.push_back(rate[1].back() / rate[0].back());
  }
  std::printf("| %d | %s | %td |", threads, s.name().c_str(), s.leaf);
  for (auto const& r : rate) std::printf(" %.1f |", median(r));
  std::printf(" %.1f | %.0f %% | %.2f | %.2f |\n", median(peak), 100 * median(rate[0]) / median(peak), median(to_peer),
              median(leaf_to_one));
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<int> threads;
  int rounds = 9;
  std::string only;
  for (int i = 1; i + 1 < count; i += 2) {
    std::string const option = arguments[i];
    if (option == "--threads") threads.push_back(std::atoi(arguments[i + 1]));
    else if (option == "--rounds") rounds = std::atoi(arguments[i + 1]);
    else if (option == "--only") only = arguments[i + 1];
  }
  if (threads.empty()) threads = {1, 2};
  auto const peers = find_peers();
  std::printf("GFLOP/s, %s\n\n| threads | m x n x k | leaf | tenon, one leaf | tenon, leaves |", simd::instruction_set);
  for (auto const& p : peers) std::printf(" %s |", p.name.c_str());
  std::printf(" FMA peak | share of peak | one leaf / best peer | leaves / one leaf |\n|");
  for (std::size_t i = 0; i < 9 + peers.size(); ++i) std::printf(" --- |");
  std::printf("\n");
  struct size {
    index_t m, n, k, leaf;
  };
  for (int t : threads)
    for (size const& z :
         {size{1024, 1024, 1024, 64}, {256, 3072, 768, 128}, {64, 50304, 768, 128}, {768, 768, 256, 64}})
      for (auto [ta, tb] : {std::pair{false, false}, {false, true}, {true, false}}) {
        shape const s{z.m, z.n, z.k, ta, tb, z.leaf};
        if (s.name().find(only) != std::string::npos) run_shape(s, t, rounds, peers);
      }
}
