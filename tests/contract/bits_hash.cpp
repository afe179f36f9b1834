// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
/// @file Prints a hash of the output bits of every conversion, elementary function and operation over many inputs, one
/// line each. bits_hash_test.cmake builds it by several compilers and flags: no line may change (contract I).
#include <bit>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <span>
#include <type_traits>
#include <vector>

#include <tenon/core/philox.hpp>
#include <tenon/exec/host/context.hpp>
#include <tenon/exec/host/math.hpp>
#include <tenon/exec/host/parallel.hpp>
#include <tenon/ops/host/activation.hpp>
#include <tenon/ops/host/attention.hpp>
#include <tenon/ops/host/cross_entropy.hpp>
#include <tenon/ops/host/dropout.hpp>
#include <tenon/ops/host/elementwise.hpp>
#include <tenon/ops/host/embedding.hpp>
#include <tenon/ops/host/gemm.hpp>
#include <tenon/ops/host/grad_norm.hpp>
#include <tenon/ops/host/linear.hpp>
#include <tenon/ops/host/moe.hpp>
#include <tenon/ops/host/norm.hpp>
#include <tenon/ops/host/rope.hpp>
#include <tenon/ops/host/sample.hpp>
#include <tenon/ops/host/update.hpp>

namespace {

using namespace tenon;
namespace sd = tenon::simd;

/// FNV-1a over bits. NaN counts as NaN only: which one an operation gives is not promised.
struct hash {
  std::uint64_t value = 0xcbf29ce484222325u;
  void word(std::uint64_t w) { value = (value ^ w) * 0x100000001b3u; }
  void add(float x) {
    auto const b = std::bit_cast<std::uint32_t>(x);
    word((b & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : b);
  }
  void add(double x) { word(x != x ? 1 : std::bit_cast<std::uint64_t>(x)); }
  void add(index_t x) { word(std::uint64_t(x)); }
  template <class T>
    requires(!std::is_arithmetic_v<T>)
  void add(T x) { add(float(x)); }
  template <class T>
  void add(std::vector<T> const& v) {
    for (auto const& x : v) add(x);
  }
};

hash everything;
void report(char const* name, hash h) {
  everything.word(h.value);
  std::printf("%-28s %016" PRIx64 "\n", name, h.value);
}
template <class... T>
void print(char const* name, T const&... outputs) {
  hash h;
  (h.add(outputs), ...);
  report(name, h);
}

/// Reproducible inputs of mixed size; multiples of 2^-12 in [-2, 2), so that making them rounds nothing in fp32.
template <class T = float>
std::vector<T> values(index_t n, char const* name) {
  random_stream const stream(1, name);
  std::vector<T> v;
  for (index_t i = 0; i < n; ++i)
    v.push_back(T(float(std::int32_t(stream.word(0, std::uint64_t(i)) >> 18) - 8192) * 0x1p-12f));
  return v;
}
template <class T>
matrix_view<T const> in(std::vector<T> const& v, index_t rows, index_t cols) {
  return as_const(matrix(const_cast<T*>(v.data()), rows, cols));
}
template <class T>
matrix_view<T> out(std::vector<T>& v, index_t rows, index_t cols) {
  v.assign(std::size_t(rows * cols), T(0.0f));
  return matrix(v.data(), rows, cols);
}

/// All floats, 1021 apart, and those beside every power of two.
template <class Function>
void print_function(char const* name, Function function) {
  hash h;
  float x[16], y[16];
  auto run = [&] {
    sd::store(y, function(sd::load(x)));
    for (float v : y) h.add(v);
  };
  for (std::uint64_t b = 0; b < std::uint64_t(1) << 32; b += 16 * 1021) {
    for (std::uint32_t i = 0; i < 16; ++i) x[i] = std::bit_cast<float>(std::uint32_t(b) + i * 1021);
    run();
  }
  for (std::uint32_t exponent = 0; exponent < 512; ++exponent) {
    for (std::uint32_t i = 0; i < 16; ++i) x[i] = std::bit_cast<float>((exponent << 23) + i - 8);
    run();
  }
  report(name, h);
}

template <class T>
void print_conversions(char const* to_name, char const* from_name) {
  print_function(to_name, [](sd::f32x16 v) {
    T t[16];
    sd::store(t, v);
    float back[16];
    for (int i = 0; i < 16; ++i) back[i] = float(t[i].bits);
    return sd::load(back);
  });
  hash h;
  T t[16];
  float wide[16];
  for (std::uint32_t b = 0; b < 1u << (8 * sizeof(T)); b += 16) {
    for (std::uint32_t i = 0; i < 16; ++i) t[i] = T::from_bits(decltype(T::bits)(b + i));
    sd::store(wide, sd::load(t));
    for (float v : wide) h.add(v);
  }
  report(from_name, h);
}

void functions() {
  print_function("exp", [](sd::f32x16 v) { return sd::exp(v); });
  print_function("log", [](sd::f32x16 v) { return sd::log(v); });
  print_function("sigmoid", [](sd::f32x16 v) { return sd::sigmoid(v); });
  print_function("tanh", [](sd::f32x16 v) { return sd::tanh(v); });
  print_function("erf", [](sd::f32x16 v) { return sd::erf(v); });
  print_function("sin", [](sd::f32x16 v) { return sd::sin(v); });
  print_function("cos", [](sd::f32x16 v) { return sd::cos(v); });
  print_function("sqrt", [](sd::f32x16 v) { return sd::sqrt(v); });
  print_conversions<bf16>("to bf16", "from bf16");
  print_conversions<fp16>("to fp16", "from fp16");
  print_conversions<fp8_e4m3>("to fp8_e4m3", "from fp8_e4m3");
  print_conversions<fp8_e5m2>("to fp8_e5m2", "from fp8_e5m2");
}

template <class T>
void gemm(exec::host_context& context, char const* name) {
  hash h;
  struct shape {
    index_t m, n, k, leaf;
  };
  for (auto [m, n, k, leaf] :
       {shape{1, 1, 1, 0}, {1, 300, 70, 16}, {5, 17, 33, 0}, {64, 96, 200, 32}, {129, 65, 513, 48}, {40, 48, 0, 0}}) {
    auto const a = values<T>(m * k, "a"), b = values<T>(n * k, "b"), residual = values<T>(m * n, "r");
    auto const bias = values(n, "bias");
    for (auto kind : {ops::activation_kind::none, ops::activation_kind::gelu_tanh, ops::activation_kind::silu}) {
      std::vector<T> c, before;
      ops::gemm(context, ops::gemm_args<T, T, T>{.c = out(c, m, n),
                                                 .a = in(a, m, k),
                                                 .b = transposed(in(b, n, k)),
                                                 .leaf = leaf,
                                                 .bias = bias.data(),
                                                 .activation = kind,
                                                 .residual = in(residual, m, n),
                                                 .pre_activation = out(before, m, n)});
      h.add(c), h.add(before);
    }
    std::vector<float> gradient;
    ops::gemm(context, ops::gemm_args<float, T, T>{.c = out(gradient, k, k),
                                                   .a = transposed(in(a, m, k)),
                                                   .b = in(a, m, k),
                                                   .leaf = 16,
                                                   .accumulate = true});
    h.add(gradient);
  }
  report(name, h);
}

/// Weights of every format out of bytes below 0x3c: all are numbers then.
void stored_weights(exec::host_context& context) {
  index_t const n = 37, k = 512, most = 9;
  auto const x = values(most * k, "x");
  std::vector<std::int32_t> const rows{0, 36, 7};
  for (auto const& layout : weight_layouts) {
    weight_view w{weight_format(&layout - weight_layouts.data()), nullptr, n, k};
    std::vector<std::byte> bytes;
    for (index_t i = 0; i < n * w.row_bytes(); ++i)
      bytes.push_back(std::byte(random_stream(1, "bytes").word(0, std::uint64_t(i)) % 0x3c));
    w.data = bytes.data();
    hash h;
    for (index_t t : {index_t(1), index_t(2), most})
      for (index_t leaf : {index_t(0), index_t(64)}) {
        std::vector<float> y;
        ops::linear(context, ops::linear_args{.x = in(x, t, k), .weight = w, .y = out(y, t, n), .leaf = leaf});
        h.add(y);
      }
    std::vector<float> picked;
    ops::table_rows(context, ops::table_rows_args{rows, w, out(picked, 3, k), 1.7f});
    h.add(picked);
    report(layout.name, h);
  }
}

template <class T>
void norms(exec::host_context& context, char const* name) {
  index_t const t = 37, c = 101;
  auto const x = values<T>(t * c, "x"), weight = values<T>(c, "w"), bias = values<T>(c, "b"), d = values<T>(t * c, "d");
  std::vector<T> y, d_x, z, d_z;
  std::vector<float> mean(t), rstd(t), d_weight(c), d_bias(c), rms(t), d_rms(c);
  ops::layer_norm_forward(context, ops::layer_norm_forward_args<T>{.x = in(x, t, c),
                                                                   .weight = weight.data(),
                                                                   .bias = bias.data(),
                                                                   .out = out(y, t, c),
                                                                   .mean = mean.data(),
                                                                   .rstd = rstd.data()});
  ops::layer_norm_backward(context, ops::layer_norm_backward_args<T>{.d_out = in(d, t, c),
                                                                     .x = in(x, t, c),
                                                                     .mean = mean.data(),
                                                                     .rstd = rstd.data(),
                                                                     .weight = weight.data(),
                                                                     .d_x = out(d_x, t, c),
                                                                     .d_weight = d_weight.data(),
                                                                     .d_bias = d_bias.data(),
                                                                     .leaf = 16});
  ops::rms_norm_forward(context, ops::rms_norm_forward_args<T>{.x = in(x, t, c),
                                                               .weight = weight.data(),
                                                               .out = out(z, t, c),
                                                               .rstd = rms.data()});
  ops::rms_norm_backward(context, ops::rms_norm_backward_args<T>{.d_out = in(d, t, c),
                                                                 .x = in(x, t, c),
                                                                 .rstd = rms.data(),
                                                                 .weight = weight.data(),
                                                                 .d_x = out(d_z, t, c),
                                                                 .d_weight = d_rms.data(),
                                                                 .leaf = 16});
  print(name, y, mean, rstd, d_x, d_weight, d_bias, z, rms, d_z, d_rms);
}

template <class T>
void attention(exec::host_context& context, char const* name) {
  index_t const begins[] = {0, 70, 71, 150}, t = 150;
  int const heads = 4, kv = 2, width = 20;
  ops::attention_options const options{.query_heads = heads,
                                       .kv_heads = kv,
                                       .head_width = width,
                                       .scale = 0.25f,
                                       .soft_cap = 8,
                                       .query_leaf = 16};
  auto const q = values<T>(t * heads * width, "q"), d = values<T>(t * heads * width, "d");
  auto const k = values<T>(t * kv * width, "k"), v = values<T>(t * kv * width, "v");
  std::vector<T> o, dq, dk, dv;
  std::vector<float> l;
  ops::attention_forward(context, ops::attention_forward_args<T>{.q = in(q, t, heads * width),
                                                                 .k = in(k, t, kv * width),
                                                                 .v = in(v, t, kv * width),
                                                                 .out = out(o, t, heads * width),
                                                                 .log_sum_exp = out(l, heads, t),
                                                                 .sequence_begins = begins,
                                                                 .options = options});
  ops::attention_backward(context, ops::attention_backward_args<T>{.q = in(q, t, heads * width),
                                                                   .k = in(k, t, kv * width),
                                                                   .v = in(v, t, kv * width),
                                                                   .out = in(o, t, heads * width),
                                                                   .log_sum_exp = in(l, heads, t),
                                                                   .d_out = in(d, t, heads * width),
                                                                   .dq = out(dq, t, heads * width),
                                                                   .dk = out(dk, t, kv * width),
                                                                   .dv = out(dv, t, kv * width),
                                                                   .sequence_begins = begins,
                                                                   .options = options});
  print(name, o, l, dq, dk, dv);
}

template <class T>
void rows(exec::host_context& context, char const* name) {
  index_t const t = 29, c = 70, v = 53;
  auto const hidden = values<T>(t * c, "h"), weight = values<T>(v * c, "w");
  std::vector<std::int32_t> targets;
  std::vector<index_t> positions;
  for (index_t i = 0; i < t; ++i) targets.push_back(std::int32_t(i * 31 % v)), positions.push_back(i * i * 997);
  std::vector<T> d_hidden, embedded, turned = hidden, kept;
  std::vector<float> losses(t), d_weight, d_table, sums(c);
  ops::linear_cross_entropy(context, ops::linear_cross_entropy_args<T>{.hidden = in(hidden, t, c),
                                                                       .weight = in(weight, v, c),
                                                                       .targets = targets,
                                                                       .losses = losses.data(),
                                                                       .d_hidden = out(d_hidden, t, c),
                                                                       .d_weight = out(d_weight, v, c),
                                                                       .gradient_scale = 0.125f,
                                                                       .leaf_tokens = 16,
                                                                       .soft_cap = 30.0f});
  ops::embedding_forward(context, ops::embedding_forward_args<T>{.tokens = targets,
                                                                 .table = in(weight, v, c),
                                                                 .out = out(embedded, t, c),
                                                                 .scale = 1.7f});
  ops::embedding_backward(context, ops::embedding_backward_args<T>{.tokens = targets,
                                                                   .d_out = in(hidden, t, c),
                                                                   .d_table = out(d_table, v, c),
                                                                   .leaf = 16});
  ops::rope(context, ops::rope_args<T>{.x = matrix(turned.data(), t, c),
                                       .heads = 2,
                                       .width = 35,
                                       .rotary_width = 34,
                                       .positions = positions});
  ops::dropout(context, ops::dropout_args<T>{.x = in(hidden, t, c),
                                             .out = out(kept, t, c),
                                             .rate = 0.1f,
                                             .stream = random_stream(3, "dropout"),
                                             .sequence_length = t});
  ops::column_sum(context, ops::column_sum_args<T>{.x = in(hidden, t, c), .out = sums.data(), .leaf = 16});
  print(name, losses, d_hidden, d_weight, embedded, d_table, turned, kept, sums);
}

template <class T>
void activations(exec::host_context& context, char const* name) {
  using ops::activation_kind;
  index_t const t = 13, f = 37;
  auto const x = values<T>(2 * t * f, "x"), d = values<T>(t * f, "d");
  hash h;
  for (auto kind :
       {activation_kind::gelu_tanh, activation_kind::gelu_erf, activation_kind::silu, activation_kind::relu}) {
    std::vector<T> y, d_x, z, d_z;
    ops::activation_forward(context, ops::activation_forward_args<T>{in(x, t, f), out(y, t, f), kind});
    ops::activation_backward(context, ops::activation_backward_args<T>{in(x, t, f), in(d, t, f), out(d_x, t, f), kind});
    ops::gated_activation_forward(context, ops::gated_activation_forward_args<T>{in(x, t, 2 * f), out(z, t, f), kind});
    ops::gated_activation_backward(
        context, ops::gated_activation_backward_args<T>{in(x, t, 2 * f), in(d, t, f), out(d_z, t, 2 * f), kind});
    h.add(y), h.add(d_x), h.add(z), h.add(d_z);
  }
  report(name, h);
}

template <class T>
void experts(exec::host_context& context, char const* name) {
  index_t const t = 29, n = 21, k = 3, c = 37;
  std::vector<index_t> const begins{0, 13, t};
  std::vector<index_t> chosen, places, counts, tokens(std::size_t(t * k)), expert_begins(std::size_t(n + 1));
  std::vector<float> probabilities, weights, d_weights, d_logits;
  ops::routing const routes{
      out(probabilities, t, n), out(chosen, t, k), out(weights, t, k), out(places, t, k), tokens, expert_begins,
      out(counts, 2, n)};
  ops::route(context, ops::route_args{in(values(t * n, "l"), t, n), begins, 1.2f, routes});
  index_t const rows = routes.rows();
  auto const x = values<T>(t * c, "x"), d = values<T>(t * c, "d");
  std::vector<T> y, sum, d_y;
  ops::dispatch(context, ops::dispatch_args<T>{in(x, t, c), routes.row_tokens(), out(y, rows, c)});
  ops::combine(context,
               ops::combine_args<T>{in(y, rows, c), routes.places, routes.weights, in(d, t, c), out(sum, t, c)});
  ops::combine_backward(context,
                        ops::combine_backward_args<T>{in(d, t, c), in(y, rows, c), routes.places, routes.weights,
                                                      out(d_y, rows, c), out(d_weights, t, k)});
  std::vector<double> balance(2);
  ops::route_backward(context, ops::route_backward_args{routes, begins, in(d_weights, t, k), 0.3f, out(d_logits, t, n),
                                                        balance.data()});
  print(name, probabilities, weights, chosen, places, sum, d_y, d_weights, d_logits, balance);
}

void updates(exec::host_context& context) {
  index_t const rows = 23, cols = 31, n = rows * cols;
  auto const gradient = values(n, "g");
  auto p = values(n, "p"), m = values(n, "m"), v = values(n, "v");
  for (auto& x : v) x = x * x;
  std::vector<bf16> storage(std::size_t(n), bf16(0.0f));
  ops::adamw_update(context, ops::adamw_update_args<bf16>{.parameter = p.data(),
                                                          .gradient = gradient.data(),
                                                          .m = m.data(),
                                                          .v = v.data(),
                                                          .storage = storage.data(),
                                                          .n = n,
                                                          .weight_decay = 0.1f,
                                                          .step = 7,
                                                          .gradient_scale = 0.3f});
  print("adamw", p, m, v, storage);
  ops::lion_update(context, ops::lion_update_args<float>{.parameter = p.data(),
                                                         .gradient = gradient.data(),
                                                         .m = m.data(),
                                                         .n = n,
                                                         .weight_decay = 0.1f});
  print("lion", p, m);
  ops::sgd_update(context, ops::sgd_update_args<float>{.parameter = p.data(),
                                                       .gradient = gradient.data(),
                                                       .m = m.data(),
                                                       .n = n,
                                                       .momentum = 0.9f,
                                                       .nesterov = true});
  print("sgd", p, m);
  ops::muon_update(context, ops::muon_update_args<float>{.parameter = p.data(),
                                                         .gradient = gradient.data(),
                                                         .m = m.data(),
                                                         .rows = rows,
                                                         .cols = cols});
  print("muon", p, m);
  double norm = 0;
  ops::norm_part const part{gradient.data(), rows, cols};
  ops::grad_norm(context, ops::grad_norm_args{.parts = std::span(&part, 1), .result = &norm});
  print("gradient norm", norm);
}

void sample(exec::host_context& context) {
  index_t const v = 3001, draws = 400;
  auto logits = values(v * 4, "logits");
  for (auto& x : logits) x = x * x * x;
  std::vector<float> tokens, log_probabilities;
  for (index_t i = 0; i < draws; ++i) {
    ops::seen_token const seen[] = {{std::int32_t(i), 3}, {std::int32_t(7 * i), 0}};
    ops::sampling_options const o{.temperature = float(1 + i % 7) * 0.3f,
                                  .top_k = i % 3 == 0 ? 100 : 0,
                                  .top_p = i % 2 == 0 ? 0.9f : 1.0f,
                                  .min_p = i % 5 == 0 ? 0.01f : 0.0f,
                                  .repetition_penalty = 1.3f,
                                  .frequency_penalty = 0.7f};
    ops::sample_row r{.logits = logits.data() + i % 4 * v,
                      .options = &o,
                      .position = std::uint64_t(i),
                      .seen = seen,
                      .wants_log_probability = true};
    ops::sample(context, ops::sample_args{.rows = {&r, 1}, .vocabulary = v});
    tokens.push_back(float(r.token)), log_probabilities.push_back(r.log_probability);
  }
  print("sample", tokens, log_probabilities);
}

}  // namespace

int main() {
  functions();
  exec::host_context context(2);
  sample(context);
  gemm<float>(context, "gemm f32");
  gemm<bf16>(context, "gemm bf16");
  stored_weights(context);
  norms<float>(context, "norms f32");
  norms<bf16>(context, "norms bf16");
  attention<float>(context, "attention f32");
  attention<bf16>(context, "attention bf16");
  rows<float>(context, "rows f32");
  rows<bf16>(context, "rows bf16");
  activations<float>(context, "activations f32");
  activations<bf16>(context, "activations bf16");
  experts<float>(context, "experts f32");
  experts<bf16>(context, "experts bf16");
  updates(context);
  std::printf("%-28s %016" PRIx64 "\n", "everything", everything.value);
}
