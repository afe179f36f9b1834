// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file Attention over paged keys and values: decoding as a share of the read bandwidth, and prefill as a share of the
/// FMA peak, both measured in the same run: Markdown tables.
///
///     paged_attention_bench [--threads N]... [--rounds R] [--heads H] [--kv_heads H] [--width D] [--page TOKENS]
///                           [--batch SEQUENCES] [--longest TOKENS] [--mebibytes OF_CACHE]
///
/// A round decodes one token in each of as many layers as fill the memory asked for, so that no cache holds them.
/// Figures are medians over rounds; shares are taken per round.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <tenon/core/philox.hpp>
#include <tenon/exec/host/peak.hpp>
#include <tenon/infer/kv_storage.hpp>
#include <tenon/ops/host/attention.hpp>
#include <tenon/ops/host/paged_attention.hpp>

namespace {

using tenon::index_t;
namespace ops = tenon::ops;

struct settings {
  std::vector<int> threads;
  int rounds = 7, heads = 4, kv_heads = 1, width = 256;
  index_t page = 16, batch = 1, longest = 32768, mebibytes = 1024;
  ops::attention_options options() const { return {heads, kv_heads, width, 0.0625f}; }
  index_t wide() const { return index_t(heads) * width; }
  index_t narrow() const { return index_t(kv_heads) * width; }
};

template <class F>
double seconds_of(F&& f) {
  auto const begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
std::vector<float> random_rows(index_t count) {
  tenon::random_stream const stream(1, "paged_attention_bench");
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 2 * stream.uniform(0, i) - 1;
  return x;
}

/// A cache whose layers all hold `batch` sequences of `length` tokens.
template <class E>
struct filled {
  std::vector<std::vector<std::int32_t>> tables;
  std::vector<ops::paged_sequence> sequences;
  tenon::infer::kv_storage<E> cache;

  filled(settings const& s, index_t length, int layers)
      : cache(std::vector<tenon::infer::kv_layer>(std::size_t(layers), {s.kv_heads, s.width}), s.page,
              std::vector<index_t>{s.batch * tenon::ceil_div(length, s.page)}) {
    tenon::exec::host_context ctx(1);
    index_t const pages = tenon::ceil_div(length, s.page), count = pages * s.batch;
    auto const x = random_rows(length * s.narrow());
    auto const rows = tenon::matrix(x.data(), length, s.narrow());
    for (index_t b = 0; b < s.batch; ++b) {
      tables.emplace_back();
      for (index_t p = 0; p < pages; ++p) tables.back().push_back(std::int32_t((b * pages + p) * 10007 % count));
    }
    for (auto const& table : tables) {
      ops::paged_sequence const all{0, length, 0, table};
      for (int l = 0; l < layers; ++l)
        ops::kv_write(ctx, ops::kv_write_args<float, E>{rows, rows, cache.layer(l), {&all, 1}});
      sequences.push_back({index_t(sequences.size()), 1, length - 1, table});
    }
  }
};

template <class E>
void decode(settings const& s, int threads, index_t length, char const* name) {
  tenon::exec::host_context ctx(threads);
  index_t const row_bytes = 2 * ops::kv_tile<E>::bytes(s.width) / (2 * tenon::lanes) * s.kv_heads;
  double const bytes = double(row_bytes * length * s.batch);
  int const layers = int(std::max(1.0, double(s.mebibytes) * (1 << 20) / bytes));
  filled<E> f(s, length, layers);
  auto const q = random_rows(s.batch * s.wide());
  std::vector<float> out(q.size());
  auto const layer = [&](int l) {
    ops::paged_attention(ctx, ops::paged_attention_args<float, E>{tenon::matrix(q.data(), s.batch, s.wide()),
                                                                  tenon::matrix(out.data(), s.batch, s.wide()),
                                                                  f.cache.layer(l), f.sequences, s.options()});
  };
  std::vector<double> rates, reads, shares;
  auto const read = [&] { return tenon::exec::measure_read_bandwidth(ctx.pool(), std::size_t(bytes * layers)); };
  for (int r = 0; r < s.rounds; ++r) {
    double const before = read();
    double const time = seconds_of([&] {
      for (int l = 0; l < layers; ++l) layer(l);
    });
    rates.push_back(bytes * layers / time * 1e-9), reads.push_back(before * 1e-9);
    shares.push_back(rates.back() / reads.back());
  }
  std::printf("| %d | %s | %td | %td | %.1f | %.1f | %.0f %% | %.1f |\n", threads, name, s.batch, length, median(reads),
              median(rates), 100 * median(shares), bytes / median(rates) * 1e-3);
  std::fflush(stdout);
}

/// The last `chunk` tokens of a sequence of `length`, against attention_forward of the whole sequence.
template <class E>
void prefill(settings const& s, int threads, index_t length, index_t chunk, char const* name) {
  tenon::exec::host_context ctx(threads);
  filled<E> f(s, length, 1);
  auto const q = random_rows(length * s.wide()), k = random_rows(length * s.narrow());
  std::vector<float> out(q.size()), log_sum_exp(std::size_t(length * s.heads));
  ops::paged_sequence const last{length - chunk, chunk, length - chunk, f.tables[0]};
  ops::paged_attention_args<float, E> const paged{tenon::matrix(q.data(), length, s.wide()),
                                                  tenon::matrix(out.data(), length, s.wide()),
                                                  f.cache.layer(0),
                                                  {&last, 1},
                                                  s.options()};
  std::vector<index_t> const begins{0, length};
  ops::attention_forward_args<float> const whole{
      paged.q,    tenon::matrix(k.data(), length, s.narrow()),        tenon::matrix(k.data(), length, s.narrow()),
      paged.out,  tenon::matrix(log_sum_exp.data(), s.heads, length), begins,
      s.options()};
  std::vector<double> ours, theirs, peaks, ratios;
  for (int r = 0; r < s.rounds; ++r) {
    double const peak = tenon::exec::measure_fma_peak(ctx.pool()) * 1e-9;
    ours.push_back(ops::paged_attention_t::work(paged).flops * 1e-9 /
                   seconds_of([&] { ops::paged_attention(ctx, paged); }));
    theirs.push_back(ops::attention_forward_t::work(whole).flops * 1e-9 /
                     seconds_of([&] { ops::attention_forward(ctx, whole); }));
    peaks.push_back(peak), ratios.push_back(ours.back() / theirs.back());
  }
  std::printf("| %d | %s | %td | %td | %.0f | %.0f | %.0f | %.2f |\n", threads, name, length, chunk, median(peaks),
              median(ours), median(theirs), median(ratios));
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
    else if (option == "--heads") s.heads = value;
    else if (option == "--kv_heads") s.kv_heads = value;
    else if (option == "--width") s.width = value;
    else if (option == "--page") s.page = value;
    else if (option == "--batch") s.batch = value;
    else if (option == "--longest") s.longest = value;
    else if (option == "--mebibytes") s.mebibytes = value;
    else return std::fprintf(stderr, "paged_attention_bench: unknown option %s\n", option.c_str()), 2;
  }
  if (s.threads.empty()) s.threads = {1, int(std::max(1u, std::thread::hardware_concurrency()))};
  std::printf("%s, %d query heads, %d KV heads, %d wide, pages of %td tokens\n\n", tenon::simd::instruction_set,
              s.heads, s.kv_heads, s.width, s.page);
  auto const each_element = [&](auto&& f) {
    f(float{}, "F32"), f(tenon::bf16{}, "BF16"), f(tenon::fp16{}, "F16"), f(tenon::kv::q8{}, "q8");
  };
  std::printf(
      "| threads | cache | sequences | tokens | GB/s read | GB/s decoding | share | us a layer |\n"
      "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (int threads : s.threads)
    for (index_t length = 4096; length <= s.longest; length *= 8)
      each_element([&](auto e, char const* name) { decode<decltype(e)>(s, threads, length, name); });
  std::printf(
      "\n| threads | cache | tokens | in the last chunk | peak GFLOP/s | GFLOP/s | of attention_forward | ratio |\n"
      "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (int threads : s.threads)
    for (index_t chunk : {512, 2048})
      each_element([&](auto e, char const* name) { prefill<decltype(e)>(s, threads, 2048, chunk, name); });
}
