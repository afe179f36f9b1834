// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file Attention forward and backward at sequences 1k to 8k as a share of the FMA peak of the same run: a Markdown
/// table.
///
///     attention_bench [--threads N]... [--rounds R] [--heads H] [--kv_heads H] [--width D] [--longest TOKENS]
///
/// Only the visible half of the score matrix counts: two products forward, five backward, 2 * head_width operations per
/// visible pair each. Figures are medians over rounds; shares are taken per round, of the peak measured around it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <tenon/core/philox.hpp>
#include <tenon/exec/host/peak.hpp>
#include <tenon/ops/host/attention.hpp>

namespace {

using tenon::index_t;
namespace ops = tenon::ops;
namespace simd = tenon::simd;

struct settings {
  std::vector<int> threads;
  int rounds = 5, heads = 8, kv_heads = 8, width = 64;
  index_t longest = 8192;
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double measure_peak(tenon::exec::thread_pool& pool) { return tenon::exec::measure_fma_peak(pool) * 1e-9; }
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

/// One sequence, its operands and its results.
struct problem {
  index_t length, wide, narrow;
  ops::attention_options options;
  std::vector<index_t> begins;
  tenon::arena memory;  // huge pages, as in training
  float *q, *k, *v, *out, *log_sum_exp, *d_out, *dq, *dk, *dv;

  problem(settings const& s, index_t tokens)
      : length(tokens), wide(index_t(s.heads) * s.width),
        narrow(index_t(s.kv_heads) * s.width), options{s.heads, s.kv_heads,
                                                       s.width, 0.125f,
                                                       true,    0,
                                                       0,       tenon::reduction_order::token_leaf(tokens)},
        begins{0, tokens} {
    for (float** x : {&q, &out, &d_out, &dq}) *x = memory.allocate<float>(length * wide);
    for (float** x : {&k, &v, &dk, &dv}) *x = memory.allocate<float>(length * narrow);
    log_sum_exp = memory.allocate<float>(length * s.heads);
    std::uint64_t sample = 0;
    for (float* x : {q, d_out}) fill(x, ++sample, wide);
    for (float* x : {k, v}) fill(x, ++sample, narrow);
  }
  ops::attention_forward_args<float> forward() {
    return {in(q, wide),
            in(k, narrow),
            in(v, narrow),
            to(out, wide),
            tenon::matrix(log_sum_exp, options.query_heads, length),
            begins,
            options};
  }
  ops::attention_backward_args<float> backward() {
    return {in(q, wide),
            in(k, narrow),
            in(v, narrow),
            in(out, wide),
            tenon::matrix<float const>(log_sum_exp, options.query_heads, length),
            in(d_out, wide),
            to(dq, wide),
            to(dk, narrow),
            to(dv, narrow),
            begins,
            options};
  }

 private:
  void fill(float* x, std::uint64_t sample, index_t columns) const {
    tenon::random_stream const stream(1, "attention_bench");
    for (index_t i = 0; i < length * columns; ++i) x[i] = 2 * stream.uniform(sample, std::uint64_t(i)) - 1;
  }
  tenon::matrix_view<float const> in(float const* x, index_t columns) const {
    return tenon::matrix(x, length, columns);
  }
  tenon::matrix_view<float> to(float* x, index_t columns) const { return tenon::matrix(x, length, columns); }
};

void measure(settings const& s, int threads, index_t length) {
  tenon::exec::host_context ctx(threads);
  problem p(s, length);
  auto const forward = p.forward();
  auto const backward = p.backward();
  double const forward_work = ops::attention_forward_t::work(forward).flops * 1e-9;
  double const backward_work = ops::attention_backward_t::work(backward).flops * 1e-9;
  ops::attention_forward(ctx, forward);
  ops::attention_backward(ctx, backward);
  std::vector<double> peaks, forwards, backwards, forward_share, backward_share, both_share;
  double before = measure_peak(ctx.pool());
  for (int round = 0; round < s.rounds; ++round) {
    double const begin = seconds();
    ops::attention_forward(ctx, forward);
    double const middle = seconds();
    ops::attention_backward(ctx, backward);
    double const end = seconds(), after = measure_peak(ctx.pool()), peak = (before + after) / 2;
    before = after;
    peaks.push_back(peak);
    forwards.push_back(forward_work / (middle - begin));
    backwards.push_back(backward_work / (end - middle));
    forward_share.push_back(forwards.back() / peak);
    backward_share.push_back(backwards.back() / peak);
    both_share.push_back((forward_work + backward_work) / (end - begin) / peak);
  }
  using device = tenon::device::host;
  auto const mib = [](auto bytes) { return double(bytes) / double(1 << 20); };
  std::printf("| %d | %td | %.1f | %.1f | %.0f %% | %.1f | %.0f %% | %.0f %% | %.2f | %.2f | %.0f |\n", threads, length,
              median(peaks), median(forwards), 100 * median(forward_share), median(backwards),
              100 * median(backward_share), 100 * median(both_share),
              mib(ops::kernel_for<ops::attention_forward_t, device>::scratch_bytes(forward, threads)),
              mib(ops::kernel_for<ops::attention_backward_t, device>::scratch_bytes(backward, threads)),
              mib(ctx.scratch().bytes_reserved()));
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  settings s;
  for (int i = 1; i + 1 < count; i += 2) {
    std::string const option = arguments[i];
    int const value = std::atoi(arguments[i + 1]);
    if (option == "--threads") s.threads.push_back(value);
    else if (option == "--rounds") s.rounds = value;
    else if (option == "--heads") s.heads = s.kv_heads = value;
    else if (option == "--kv_heads") s.kv_heads = value;
    else if (option == "--width") s.width = value;
    else if (option == "--longest") s.longest = value;
    else return std::fprintf(stderr, "attention_bench: unknown option %s\n", option.c_str()), 2;
  }
  if (s.threads.empty()) s.threads = {1, int(std::max(1u, std::thread::hardware_concurrency()))};
  std::printf("%s, fp32, %d query heads, %d KV heads, %d wide, causal; GFLOP/s of the visible pairs; memory in MiB\n\n",
              simd::instruction_set, s.heads, s.kv_heads, s.width);
  std::printf(
      "| threads | tokens | peak | forward | of peak | backward | of peak | both | forward needs | backward needs "
      "| arena holds |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (int threads : s.threads)
    for (index_t length = 1024; length <= s.longest; length *= 2) measure(s, threads, length);
}
